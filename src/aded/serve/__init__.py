"""An OpenAI-compatible server over one model, and its page."""
