"""A drafter that counts, for programs between us and the caller that pass no `Stats` on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aded
from aded import Outcome


class Counted:
    """The adaptive drafter, whose verified and accepted tokens are counted over all calls."""

    def __init__(self) -> None:
        self._drafter = aded.create_drafter("adaptive")
        self.top_k = self._drafter.top_k
        self.drafted = self.accepted = 0

    def start(self, prompt: Sequence[int]) -> Any:
        session = self._drafter.start(prompt)
        counted = self

        class Session:
            def draft(self, max_nodes: int) -> aded.DraftTree:
                return session.draft(max_nodes)

            def observe(self, outcome: Outcome) -> None:
                counted.drafted += len(outcome.tree)
                counted.accepted += outcome.accepted
                session.observe(outcome)

        return Session()
