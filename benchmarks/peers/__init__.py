"""Other people's training-free drafters behind our protocol, to measure against; importing this registers them.

What needs a package of its own says so when it is made, not before.
"""

from benchmarks.peers import authors, automaton, ngram_trie, racer, suffix

__all__ = ["authors", "automaton", "ngram_trie", "racer", "suffix"]
