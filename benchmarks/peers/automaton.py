"""SAM-Decoding (Hu et al., ACL 2025, arXiv 2411.10666): what followed the longest suffix that stood before.

Written from the paper, with its combination with Token Recycling and without a static corpus: a suffix automaton of the
prompt and the answer says where the longest suffix stood first, and what followed there is drafted; where it is shorter
than five tokens, Token Recycling drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

from aded.drafters.base import register
from aded.drafters.token_recycling import TokenRecyclingDrafter
from aded.tree import DraftTree, Outcome

__all__ = ["SamDrafter", "SuffixAutomaton"]


class SuffixAutomaton:
    """Of a growing text: where its longest suffix that stood before ended first.

    Attributes:
        text: what was added.
        matched: length of that suffix.
    """

    def __init__(self) -> None:
        self.text: list[int] = []
        self.matched = 0
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._end = [-1], [0], [0]  # `_end`: tokens of text where it stood first
        self._last = self._state = 0

    @property
    def place(self) -> int:
        """Tokens of text up to the end of where the suffix stood first."""
        return self._end[self._state]

    def add(self, token: int) -> None:
        """One token more: follow it, then know it."""
        while self._state and token not in self._next[self._state]:
            self._state = self._link[self._state]
            self.matched = self._length[self._state]
        if token in self._next[self._state]:
            self._state = self._next[self._state][token]
            self.matched += 1
        self._extend(token)
        while self._state and self._link[self._state] >= 0 and self.matched <= self._length[self._link[self._state]]:
            self._state = self._link[self._state]  # what was extended may have been split below it

    def _extend(self, token: int) -> None:
        """Blumer et al., 1985."""
        self.text.append(token)
        made = self._make({}, self._length[self._last] + 1, len(self.text))
        state = self._last
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = made
            state = self._link[state]
        if state < 0:
            self._link[made] = 0
        else:
            known = self._next[state][token]
            if self._length[known] == self._length[state] + 1:
                self._link[made] = known
            else:
                copy = self._make(dict(self._next[known]), self._length[state] + 1, self._end[known])
                self._link[copy] = self._link[known]
                while state >= 0 and self._next[state].get(token) == known:
                    self._next[state][token] = copy
                    state = self._link[state]
                self._link[known] = self._link[made] = copy
        self._last = made

    def _make(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._link.append(-1)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1


class SamDrafter:
    """Chains of what followed before, or Token Recycling's trees.

    Args:
        least: tokens of a suffix from which what followed it is drafted.
        longest: tokens of a chain at most.
        factor: and at most so many times the suffix's, and one.
    """

    def __init__(self, *, least: int = 5, longest: int = 40, factor: float = 4.0) -> None:
        self.least, self.longest, self.factor = least, longest, factor
        self.recycling = TokenRecyclingDrafter()

    @property
    def top_k(self) -> int:
        """Of Token Recycling."""
        return self.recycling.top_k

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)


class _Session:
    def __init__(self, drafter: SamDrafter, prompt: Sequence[int]) -> None:
        self._drafter, self._known = drafter, SuffixAutomaton()
        self._other = drafter.recycling.start(prompt)
        for token in prompt:
            self._known.add(int(token))

    def draft(self, max_nodes: int) -> DraftTree:
        known, drafter = self._known, self._drafter
        if known.matched < drafter.least:
            return self._other.draft(max_nodes)
        most = min(max_nodes, drafter.longest, 1 + int(drafter.factor * known.matched))
        return DraftTree.chain(known.text[known.place : known.place + most])

    def observe(self, outcome: Outcome) -> None:
        self._other.observe(outcome)
        for token in outcome.emitted:
            self._known.add(int(token))


register("sam-recycling")(SamDrafter)
