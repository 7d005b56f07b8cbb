"""What one engine of vLLM's keeps: its settings, its drafter, the steps of its requests, and the file of its state."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from aded.drafters.base import Saved
from aded.engines.base.drafter_files import bind_drafter
from aded.engines.base.server_drafter import server_drafter
from aded.engines.vllm.engine import StepDrafter
from aded.engines.vllm.meter import forget_others, meter_file, write_facts
from aded.engines.vllm.settings import Settings
from aded.errors import AdedError, SettingsError, StateFileError, UnsupportedError
from aded.representative import vocabulary_fingerprint
from aded.representative.storage import STATE

SUPPORTED = "0.32 and 0.33"

_QUIET_S = 2.0  # without a step, after which what was learned is saved: vLLM may end without a word
_log = logging.getLogger("vllm.aded")


class Served:
    """Made in each worker process, from vLLM's configuration.

    With tensor parallelism the first rank drafts. With data parallelism each replica learns for itself, and those save
    that have a file of their own, or the first.

    Args:
        vllm_config: vLLM's configuration.
        ranked: whether vLLM chooses among the drafts; see `StepDrafter`.

    Attributes:
        settings: see `Settings`.
        longest: most tokens of a draft.
        requests: as many as can run at once.
        step: drafts for all of them; None on all ranks but the first.

    Raises:
        AdedError: a setting, state file or corpus that cannot be used, or a vLLM with another interface.
    """

    def __init__(self, vllm_config: Any, *, ranked: bool = False) -> None:
        try:
            self.longest = int(vllm_config.speculative_config.num_speculative_tokens)
            self.requests = int(vllm_config.scheduler_config.max_num_seqs)
            model = vllm_config.model_config
            max_length, vocabulary = int(model.max_model_len), int(model.get_vocab_size())
            extra = getattr(vllm_config, "additional_config", None)
        except AttributeError as error:
            raise unsupported(str(error)) from error
        self.settings = settings = Settings.read(extra.get("aded") if isinstance(extra, dict) else None)
        self.step: StepDrafter | None = None
        self._state: Path | None = None
        if not _first_rank():
            return
        sizes: dict[str, Any] = {"memory_mb": settings.memory_mb, "sequence_mb": settings.sequence_mb}
        said: dict[str, Any] = {"share": settings.share, "corpus": settings.corpus or None}
        drafter = server_drafter(settings.drafter, **said, **sizes)
        rank = int(getattr(vllm_config.parallel_config, "data_parallel_rank", 0) or 0)
        state, start = settings.state_of(rank), Path(settings.start) if settings.start else None
        if (state is not None or start is not None) and not isinstance(drafter, Saved):
            raise SettingsError(f"the drafter {settings.drafter} keeps no state; leave out state and start")
        if start is not None and not start.is_file():
            raise StateFileError(f"there is no state file {start} to start with; check the path")
        bind_drafter(drafter, vocabulary, _fingerprint(model), state if state and state.exists() else start)
        if state is not None:
            STATE.check_writable(state)
        self._written, self._shared = _version(state) if state is not None else None, True
        self._state, self._drafter = state, cast(Saved, drafter)  # it is one where there is a state
        self.step = StepDrafter(
            drafter,
            requests=self.requests,
            max_length=max_length,
            longest=self.longest,
            max_draft_tokens=settings.most,
            ranked=ranked,
            min_probability=settings.min_probability,
        )
        self._facts = meter_file(str(getattr(vllm_config, "instance_id", "")), rank)
        with contextlib.suppress(OSError):
            forget_others(self._facts)
        self._keep_house(self.step, saves=settings.saves(rank))

    def save(self) -> None:
        """Save what was learned, where a state file was named. What fails is logged: serving goes on.

        Where another engine has written the file since, what this one learned goes into one of its own.
        """
        if self._state is None or self.step is None:
            return
        if self._shared and (now := _version(self._state)) is not None and now != self._written:
            shared, name = self._state, f"{self._state.stem}-{socket.gethostname()}-{os.getpid()}{self._state.suffix}"
            self._state, self._shared = shared.with_name(name), False
            _log.warning(
                "another engine writes %s too: what this one learns goes into %s; give each a file by {host} or {rank} "
                "in its name, and join them by aded state merge",
                shared,
                self._state,
            )
        try:
            self._drafter.save(self._state)
            self._written = _version(self._state)
            self.step.meter.saves += 1
        except AdedError as error:
            self.step.meter.save_failures += 1
            _log.warning("%s", error)

    def tell(self) -> None:
        """Hand what was counted to the server; without a place for it, nothing is told."""
        if self.step is None:
            return
        facts = self.step.meter.facts()
        if (table := getattr(self._drafter, "representative", None)) is not None:
            facts |= {"contexts": table.used, "filled": table.used / len(table.arrays.keys)}
        with contextlib.suppress(OSError):
            write_facts(self._facts, facts)

    def _keep_house(self, step: StepDrafter, *, saves: bool) -> None:
        """In a thread of its own: save now and then, and tell the server what was counted."""
        done, drafter = Event(), self._drafter

        def finish() -> None:
            done.set()
            if saves:
                self.save()
            with contextlib.suppress(OSError):
                self._facts.unlink(missing_ok=True)

        def loop() -> None:
            known, then, told = drafter.clock if saves else 0, time.perf_counter(), 0.0
            while not done.wait(1.0):
                now = time.perf_counter()
                if step.began != told:
                    told = step.began
                    self.tell()
                quiet = now - step.began > _QUIET_S and now - then > 5 * _QUIET_S
                if saves and drafter.clock != known and (quiet or now - then >= self.settings.save_every_s):
                    known, then = drafter.clock, now
                    self.save()

        Thread(target=loop, name="aded-house", daemon=True).start()
        # Runs at the end of vLLM's worker processes too, which leave without `atexit`, unless vLLM kills them.
        Finalize(None, finish, exitpriority=100)


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when somebody writes a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


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
