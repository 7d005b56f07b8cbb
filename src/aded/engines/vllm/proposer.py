"""What vLLM loads: drafts a chain for every running request, from the tokens alone."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.drafters.many import ManyDrafter
from aded.engines.vllm.requests import Requests
from aded.engines.vllm.settings import Settings
from aded.engines.vllm.sharing import SharedBudget
from aded.errors import AdedError, UnsupportedError
from aded.representative import Corpus, Representative, fingerprint

__all__ = ["SUPPORTED", "AdedProposer"]

SUPPORTED = "0.32"

_MANY = 32  # requests from which learning is done beside the next step: drafts then know one step less
_QUIET_S = 2.0  # without a step, after which what was learned is saved: vLLM may end without a word
_SUCCESSORS = 8  # of a context: from kept tokens alone more are rare
_log = logging.getLogger("vllm.aded")


class AdedProposer:
    """A proposer for `speculative_config={"method": "custom_class", "model": "aded.engines.vllm.AdedProposer", ...}`.

    `num_speculative_tokens` is the longest draft. Each step's drafts are as long as they pay on this machine, all
    running requests together; see `SharedBudget`. Settings: see `Settings`.

    With tensor parallelism the first rank drafts, as vLLM takes drafts from it alone; the others return none. With data
    parallelism each replica learns for itself, and the first saves.

    Args:
        vllm_config: vLLM's configuration.

    Raises:
        AdedError: a setting, state file or corpus that cannot be used, or a vLLM with another interface.
    """

    def __init__(self, vllm_config: Any) -> None:
        try:
            longest = int(vllm_config.speculative_config.num_speculative_tokens)
            most = int(vllm_config.scheduler_config.max_num_seqs)
            model = vllm_config.model_config
            self._max_length = int(model.max_model_len)
            vocabulary = int(model.get_vocab_size())
            extra = getattr(vllm_config, "additional_config", None)
        except AttributeError as error:
            raise _unsupported(str(error)) from error
        self.settings = Settings.read(extra.get("aded") if isinstance(extra, dict) else None)
        self._drafts = _first_rank()
        if not self._drafts:
            return
        table = Representative(
            memory_mb=self.settings.memory_mb,
            successors=_SUCCESSORS,
            vocab_size=vocabulary,
            fingerprint=_fingerprint(model),
        )
        self._state = Path(self.settings.state) if self.settings.state else None
        if self._state is not None and self._state.exists():
            table.load(self._state)
        self._table = table
        self._drafter = ManyDrafter(
            table,
            sequences=most,
            sequence_mb=self.settings.sequence_mb,
            corpus=Corpus.open(self.settings.corpus) if self.settings.corpus else None,
            longest=longest,
        )
        self._longest = longest
        self._requests = Requests(most)
        self._budget = SharedBudget(most, self.settings.least)
        self._predicted = np.zeros(most)  # tokens expected to be accepted of each place's draft
        self._drafted = np.zeros(most, np.int64)  # and how many it has
        self._began = 0.0  # the last step
        self._threads = ThreadPoolExecutor(1, "aded-learn")
        self._late: Future[None] | None = None
        self._warm_up()
        if self._state is not None and not getattr(vllm_config.parallel_config, "data_parallel_rank", 0):
            self._keep_saving()

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        *others: Any,
        **more: Any,
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled_token_ids: what each request emitted in the last step; nothing where its prompt is not done.
            num_tokens_no_spec: tokens of each request, those included.
            token_ids_cpu: int32 (rows, length), the tokens.
        """
        if not self._drafts:
            return [[] for _ in sampled_token_ids]
        started = time.perf_counter()
        if not isinstance(sampled_token_ids, list) or not isinstance(token_ids_cpu, np.ndarray):
            raise _unsupported("propose() was called with something else than sampled token ids and token ids")
        drafts: list[list[int]] = [[] for _ in sampled_token_ids]
        emitted = np.fromiter(map(len, sampled_token_ids), np.int64, len(sampled_token_ids))
        rows = np.flatnonzero(emitted)
        if not rows.size:
            return drafts
        fresh, lengths = emitted[rows], num_tokens_no_spec[rows].astype(np.int64)
        places, new = self._requests.find(token_ids_cpu, rows, lengths, fresh)
        self._settle()
        recent = self._drafter.recent(token_ids_cpu, rows, lengths)
        begun = [(int(places[i]), token_ids_cpu[rows[i], : lengths[i]].copy()) for i in np.flatnonzero(new).tolist()]
        old = ~new
        self._budget.learn(places[old], fresh[old] - 1, self._predicted[places[old]])
        late = len(rows) > _MANY
        if not late:
            self._learn(begun, places[old], recent[old], fresh[old])
        if len(rows) == len(emitted) and not new.any():  # a step with part of a prompt in it says nothing of drafts
            self._budget.times.learn(len(rows) + int(self._drafted[places].sum()), started - self._began)
        chosen = np.zeros(len(rows), np.int64)
        if self._budget.wants(len(rows)):
            # One token is emitted besides the draft.
            most = np.clip(self._max_length - lengths - 1, 0, self._longest)
            if late:
                most[new] = 0  # their place is not theirs yet
            clock = time.perf_counter()
            ids, paths = self._drafter.draft(places, recent, most, self._budget.worth)
            chosen = self._budget.choose(places, paths, time.perf_counter() - clock)
            expected = np.where(np.arange(self._longest) < chosen[:, None], paths, 0.0).sum(1)
            for row, draft, n in zip(rows.tolist(), ids, chosen.tolist(), strict=True):
                if n:
                    drafts[row] = draft[:n].tolist()
        else:
            expected = np.zeros(len(rows))
        self._predicted[places], self._drafted[places], self._began = expected, chosen, started
        if late:
            self._late = self._threads.submit(self._learn, begun, places[old], recent[old], fresh[old])
        return drafts

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to load: there is no draft model."""

    def save(self) -> None:
        """Save what was learned, where a state file was named. What fails is logged: serving goes on."""
        if self._state is None:
            return
        try:
            self._table.save(self._state)
        except AdedError as error:
            _log.warning("%s", error)

    def _learn(
        self,
        begun: list[tuple[int, NDArray[np.int32]]],
        places: NDArray[np.int64],
        recent: NDArray[np.int32],
        fresh: NDArray[np.int64],
    ) -> None:
        for place, tokens in begun:
            self._drafter.start(place, tokens)
            self._budget.begin(place)
        self._drafter.learn(places, recent, fresh)

    def _settle(self) -> None:
        """Wait until what was learned beside the last step is there."""
        if self._late is not None:
            self._late.result()
            self._late = None

    def _warm_up(self) -> None:
        """Compile everything before the first request."""
        tokens, one = np.zeros((2, 8), np.int32), np.ones(1, np.int64)
        requests = Requests(2)
        requests.find(tokens, 0 * one, 4 * one, one)
        requests.find(tokens, one, 5 * one, one)  # moved to another row
        recent = self._drafter.recent(tokens, 0 * one, one)
        self._drafter.start(0, tokens[0, :0])
        self._drafter.learn(one[:0], recent[:0], one[:0])
        self._drafter.draft(0 * one, recent, one, 0.5)

    def _keep_saving(self) -> None:
        done = Event()

        def finish() -> None:
            done.set()
            self.save()

        def loop() -> None:
            known, then = self._table.clock, time.perf_counter()
            while not done.wait(1.0):
                now = time.perf_counter()
                quiet = now - self._began > _QUIET_S and now - then > 5 * _QUIET_S
                if self._table.clock != known and (quiet or now - then >= self.settings.save_every_s):
                    known, then = self._table.clock, now
                    self.save()

        Thread(target=loop, name="aded-save", daemon=True).start()
        # Runs at the end of vLLM's worker processes too, which leave without `atexit`, unless vLLM kills them.
        Finalize(None, finish, exitpriority=100)


def _unsupported(what: str) -> UnsupportedError:
    try:
        from vllm import __version__ as version
    except ImportError:
        version = "of an unknown version"
    return UnsupportedError(
        f"vLLM {version} calls proposers in another way than this release knows ({what}); it was made for vLLM "
        f"{SUPPORTED}: install that, or a newer release of aded"
    )


def _first_rank() -> bool:
    from vllm.distributed.parallel_state import get_tp_group, model_parallel_is_initialized

    return not model_parallel_is_initialized() or get_tp_group().rank_in_group == 0


def _fingerprint(model: Any) -> str:
    """That of the tokenizer; "", which agrees with all, where vLLM runs without one."""
    if getattr(model, "skip_tokenizer_init", False):
        return ""
    from vllm.tokenizers import cached_tokenizer_from_config

    vocabulary = cached_tokenizer_from_config(model).get_vocab()
    return fingerprint(sorted(vocabulary, key=vocabulary.__getitem__))
