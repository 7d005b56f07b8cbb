"""Drafters: `adaptive` (ours), `paper`, `prompt-lookup`, `token-recycling` and `none`, found by name."""

from aded.drafters import adaptive, none, paper, prompt_lookup, token_recycling
from aded.drafters.base import Drafter, Session, create, names, register, takes

__all__ = [
    "Drafter",
    "Session",
    "adaptive",
    "create",
    "names",
    "none",
    "paper",
    "prompt_lookup",
    "register",
    "takes",
    "token_recycling",
]
