"""A sweep over all generative classes of transformers."""
