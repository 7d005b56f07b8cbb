"""From a representative to drafts: best-first trees, the paper's search, and chains for many sequences at once."""

from aded.search.best_first import best_first
from aded.search.chains import ChainTables, likeliest_chains
from aded.search.mcts import mcts

__all__ = ["ChainTables", "best_first", "likeliest_chains", "mcts"]
