"""The name by which SGLang knows ADED's speculation."""

from __future__ import annotations

from typing import Any

from sglang.srt.speculative.spec_registry import CustomSpecAlgo


class AdedAlgorithm(CustomSpecAlgo):  # type: ignore[misc]  # SGLang is not installed where types are checked
    """To SGLang a kind of NGRAM: drafts without a model, of one size, relayed and recorded as NGRAM's are.

    What SGLang asks of an algorithm and its base for plugins does not have is here too.
    """

    def is_ngram(self) -> bool:
        return True

    def has_draft_kv(self) -> bool:
        return False

    def carries_draft_hidden_states(self) -> bool:
        """No draft model has any."""
        return False

    def need_topk(self) -> bool:
        """No draft model has any."""
        return False

    def get_platform_worker_cls(self) -> type | None:
        """No platform has a worker of its own for it."""
        return None

    def handle_server_args(self, server_args: Any) -> None:
        """What NGRAM settles: the size of a tree (12), and 48 requests at once, unless they are given."""
        from sglang.srt.arg_groups.speculative_hook import _handle_ngram

        _handle_ngram(server_args)

    def create_future_map(self, *arguments: Any, **named: Any) -> Any:
        """What relays a step's tokens to the next, as all built-in algorithms have it."""
        from sglang.srt.managers.overlap_utils import FutureMap

        device, rest = arguments[0], arguments[1:]
        return FutureMap(device, self, *rest, **named)
