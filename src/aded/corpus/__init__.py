"""Building a corpus: what a model is likely to say, learned before the first request."""
