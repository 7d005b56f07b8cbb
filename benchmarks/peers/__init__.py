"""Other people's training-free drafters behind our protocol, to measure against; importing this registers them.

What needs a package of its own says so when it is made, not before.
"""

from benchmarks.peers import authors, ngram_trie, suffix

__all__ = ["authors", "ngram_trie", "suffix"]
