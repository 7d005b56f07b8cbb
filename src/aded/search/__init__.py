"""From a representative to a draft tree: the paper's search and best-first."""

from aded.search.best_first import best_first
from aded.search.mcts import mcts

__all__ = ["best_first", "mcts"]
