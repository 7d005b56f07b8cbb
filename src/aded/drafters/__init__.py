"""Drafters: `adaptive` (ours), `paper`, `prompt-lookup`, `token-recycling` and `none`, found by name."""

from aded.drafters import adaptive, none, paper, prompt_lookup, token_recycling
from aded.drafters.base import Drafter, Observation, Session, create, names, register

__all__ = [
    "Drafter",
    "Observation",
    "Session",
    "adaptive",
    "create",
    "names",
    "none",
    "paper",
    "prompt_lookup",
    "register",
    "token_recycling",
]
