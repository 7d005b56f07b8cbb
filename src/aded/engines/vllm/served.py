"""What one engine of vLLM's keeps: its settings, its drafter, the steps of its requests, and the file of its state."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from aded.drafters.base import Drafter
from aded.engines.base.server_drafter import server_drafter
from aded.engines.base.settings import Settings
from aded.engines.base.state_keeper import StateKeeper
from aded.engines.vllm.engine import StepDrafter
from aded.engines.vllm.meter import forget_others, meter_file, write_facts
from aded.engines.vllm.there import drafts_there
from aded.errors import UnsupportedError
from aded.representative import vocabulary_fingerprint

if TYPE_CHECKING:
    import torch

    from aded.engines.device.drafter import DeviceDrafter

SUPPORTED = "0.32 and 0.33"


class Served:
    """Made in each worker process, from vLLM's configuration.

    With tensor parallelism the first rank drafts. With data parallelism each replica learns for itself, and those save
    that have a file of their own, or the first.

    Args:
        vllm_config: vLLM's configuration.
        device: where the model runs, if vLLM chooses among the drafts (see `StepDrafter`) and can take them from there.

    Attributes:
        settings: see `Settings`.
        longest: most tokens of a draft.
        requests: as many as can run at once.
        drafter: who drafts; None on all ranks but the first.
        step: drafts for all of them on the host.
        there: drafts for them on the device. One of these two on the first rank, and none on all others.

    Raises:
        AdedError: a setting, state file or corpus that cannot be used, or a vLLM with another interface.
    """

    def __init__(self, vllm_config: Any, *, device: torch.device | None = None) -> None:
        try:
            self.longest = int(vllm_config.speculative_config.num_speculative_tokens)
            self.requests = int(vllm_config.scheduler_config.max_num_seqs)
            model = vllm_config.model_config
            max_length, vocabulary = int(model.max_model_len), int(model.get_vocab_size())
            extra = getattr(vllm_config, "additional_config", None)
        except AttributeError as error:
            raise unsupported(str(error)) from error
        self.settings = settings = Settings.read(extra.get("aded") if isinstance(extra, dict) else None)
        self.drafter: Drafter | None = None
        self.step: StepDrafter | None = None
        self.there: DeviceDrafter | None = None
        self._keeper: StateKeeper | None = None
        if not _first_rank():
            return
        self.drafter = drafter = server_drafter(settings, self.requests)
        rank = int(getattr(vllm_config.parallel_config, "data_parallel_rank", 0) or 0)
        known: dict[str, Any] = {"vocab_size": vocabulary, "fingerprint": _fingerprint(model)}
        known["log"] = log = logging.getLogger("vllm.aded")
        sizes: dict[str, Any] = {"requests": self.requests, "max_length": max_length, "longest": self.longest}
        sizes |= {"min_probability": settings.min_probability}
        moved = drafts_there(drafter, settings, device, log)
        if moved is not None and device is not None:
            from aded.engines.device.drafter import DeviceDrafter

            most = self.longest if settings.most is None else settings.most
            self.there = DeviceDrafter(moved, vocabulary=vocabulary, most=most, device=device, **sizes)
        self._keeper = StateKeeper(self.there or drafter, settings, rank=rank, **known)
        if self.there is None:
            self.step = StepDrafter(drafter, max_draft_tokens=settings.most, ranked=device is not None, **sizes)
        self._facts = meter_file(str(getattr(vllm_config, "instance_id", "")), rank)
        with contextlib.suppress(OSError):
            forget_others(self._facts)
        drafts = self.there or self.step
        assert drafts is not None
        self._keeper.watch(lambda: drafts.began, self.tell, self._forget)

    def save(self) -> None:
        """Save what was learned, where a state file was named; see `StateKeeper.save`."""
        if self._keeper is not None:
            self._keeper.save()

    def tell(self) -> None:
        """Hand what was counted to the server; without a place for it, nothing is told."""
        drafts = self.there or self.step
        if drafts is None or self._keeper is None:
            return
        facts = drafts.facts() | {"saves": self._keeper.saves, "save_failures": self._keeper.failures}
        with contextlib.suppress(OSError):
            write_facts(self._facts, facts)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._facts.unlink(missing_ok=True)


def unsupported(what: str) -> UnsupportedError:
    """The error of a vLLM that calls in another way; `what` it did."""
    try:
        from vllm import __version__ as version
    except ImportError:
        version = "of an unknown version"
    return UnsupportedError(
        f"vLLM {version} calls proposers in another way than this release knows ({what}); it was made for vLLM "
        f"{SUPPORTED}: install one of them, or a newer release of aded"
    )


def _first_rank() -> bool:
    from vllm.distributed.parallel_state import get_tp_group, model_parallel_is_initialized

    return not model_parallel_is_initialized() or get_tp_group().rank_in_group == 0


def _fingerprint(model: Any) -> str:
    """That of the tokenizer; "", which agrees with all, where vLLM runs without one."""
    if getattr(model, "skip_tokenizer_init", False):
        return ""
    from vllm.tokenizers import cached_tokenizer_from_config

    return vocabulary_fingerprint(cached_tokenizer_from_config(model).get_vocab())
