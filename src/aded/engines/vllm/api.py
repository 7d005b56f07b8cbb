"""What vLLM loads: drafts a chain for every running request, from the tokens alone."""

from __future__ import annotations

import logging
import time
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aded.drafters.base import Saved
from aded.engines.base.drafter_files import bind_drafter
from aded.engines.vllm.engine import StepDrafter, server_drafter
from aded.engines.vllm.repairs import repair_sampling
from aded.engines.vllm.settings import Settings
from aded.errors import AdedError, SettingsError, UnsupportedError
from aded.representative import vocabulary_fingerprint
from aded.representative.storage import STATE

SUPPORTED = "0.32 and 0.33"

_QUIET_S = 2.0  # without a step, after which what was learned is saved: vLLM may end without a word
_log = logging.getLogger("vllm.aded")


class AdedProposer:
    """A proposer for `speculative_config={"method": "custom_class", "model": "aded.engines.vllm.AdedProposer", ...}`.

    `num_speculative_tokens` is the longest draft. Each step's drafts are as long as they pay on this machine, all
    running requests together; see `AdaptiveBudget`. Settings: see `Settings`.

    With tensor parallelism the first rank drafts, as vLLM takes drafts from it alone; the others return none. With data
    parallelism each replica learns for itself, and the first saves.

    Args:
        vllm_config: vLLM's configuration.

    Raises:
        AdedError: a setting, state file or corpus that cannot be used, pipeline stages, or a vLLM with another
            interface.
    """

    def __init__(self, vllm_config: Any) -> None:
        try:
            longest = int(vllm_config.speculative_config.num_speculative_tokens)
            most = int(vllm_config.scheduler_config.max_num_seqs)
            model = vllm_config.model_config
            max_length, vocabulary = int(model.max_model_len), int(model.get_vocab_size())
            stages = int(vllm_config.parallel_config.pipeline_parallel_size)
            extra = getattr(vllm_config, "additional_config", None)
        except AttributeError as error:
            raise _unsupported(str(error)) from error
        self.settings = settings = Settings.read(extra.get("aded") if isinstance(extra, dict) else None)
        self._step: StepDrafter | None = None
        if stages > 1:
            raise UnsupportedError(
                f"this vLLM cannot speculate over pipeline stages, and there are {stages} (pipeline_parallel_size): "
                "only the last would have a drafter, and all ask for it; use tensor parallelism, or no speculation"
            )
        repair_sampling()
        if not _first_rank():
            return
        sizes: dict[str, Any] = {"memory_mb": settings.memory_mb, "sequence_mb": settings.sequence_mb}
        said: dict[str, Any] = {"share": settings.share, "corpus": settings.corpus or None}
        drafter = server_drafter(settings.drafter, **said, **sizes)
        state = Path(settings.state) if settings.state else None
        if state is not None and not isinstance(drafter, Saved):
            raise SettingsError(f"the drafter {settings.drafter} keeps no state; leave out state, or use adaptive")
        bind_drafter(drafter, vocabulary, _fingerprint(model), state)
        if state is not None:
            STATE.check_writable(state)
        self._state, self._drafter = state, cast(Saved, drafter)  # it is one where there is a state
        self._step = StepDrafter(
            drafter,
            requests=most,
            max_length=max_length,
            longest=longest,
            max_draft_tokens=settings.most,
            min_probability=settings.min_probability,
        )
        if self._state is not None and not getattr(vllm_config.parallel_config, "data_parallel_rank", 0):
            self._keep_saving(self._step)

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        *others: Any,
        slot_mappings: Any = None,
        **more: Any,
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled_token_ids: what each request emitted in the last step; nothing where its prompt is not done.
            num_tokens_no_spec: tokens of each request, those included.
            token_ids_cpu: int32 (rows, length), the tokens.
            slot_mappings: where each token of the last pass lies in the cache, by layer. Their number is what is read.
        """
        if self._step is None:
            return [[] for _ in sampled_token_ids]
        if not isinstance(sampled_token_ids, list) or not isinstance(token_ids_cpu, np.ndarray):
            raise _unsupported("propose() was called with something else than sampled token ids and token ids")
        return self._step(sampled_token_ids, num_tokens_no_spec, token_ids_cpu, _scheduled(slot_mappings))

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to load: there is no draft model."""

    def save(self) -> None:
        """Save what was learned, where a state file was named. What fails is logged: serving goes on."""
        if self._state is None:
            return
        try:
            self._drafter.save(self._state)
        except AdedError as error:
            _log.warning("%s", error)

    def _keep_saving(self, step: StepDrafter) -> None:
        done, drafter = Event(), self._drafter

        def finish() -> None:
            done.set()
            self.save()

        def loop() -> None:
            known, then = drafter.clock, time.perf_counter()
            while not done.wait(1.0):
                now = time.perf_counter()
                quiet = now - step.began > _QUIET_S and now - then > 5 * _QUIET_S
                if drafter.clock != known and (quiet or now - then >= self.settings.save_every_s):
                    known, then = drafter.clock, now
                    self.save()

        Thread(target=loop, name="aded-save", daemon=True).start()
        # Runs at the end of vLLM's worker processes too, which leave without `atexit`, unless vLLM kills them.
        Finalize(None, finish, exitpriority=100)


def _scheduled(slot_mappings: Any) -> int | None:
    """Tokens in a pass, some of them padding where vLLM replays a recorded graph; None if it cannot be told."""
    parts = slot_mappings if isinstance(slot_mappings, list) else [slot_mappings]  # a pass can be made in parts
    try:
        firsts: list[Any] = [next(iter(part.values()), None) for part in parts]  # layers agree
        return sum(int(first.shape[0]) for first in firsts) or None
    except AttributeError:
        return None


def _unsupported(what: str) -> UnsupportedError:
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
