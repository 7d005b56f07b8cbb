"""What SGLang runs in each of its scheduler processes: NGRAM's worker with ADED's drafts.

SGLang verifies trees for its NGRAM speculation already: this worker drafts them, learns from what was emitted and from
the scores of every row, and leaves cache, attention, sampling, grammars and recorded graphs to it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sglang.srt.layers.dp_attention import get_dp_tp_group
from sglang.srt.runtime_context import get_parallel
from sglang.srt.speculative.ngram_worker import NGRAMWorker

from aded.engines.base.asked import Asked
from aded.engines.base.server_drafter import server_drafter
from aded.engines.base.settings import Settings
from aded.engines.base.state_keeper import StateKeeper
from aded.engines.sglang.engine import Running, Scored, TreeDrafter
from aded.errors import SettingsError, UnsupportedError
from aded.representative import vocabulary_fingerprint

_log = logging.getLogger("sglang.aded")


class AdedWorker(NGRAMWorker):  # type: ignore[misc]  # SGLang is not installed where types are checked
    """Drafts trees of `--speculative-num-draft-tokens` rows, the last token included, for every request.

    With tensor parallelism the first rank drafts, and the others are sent what it drafted. Settings are those of the
    environment, see `Settings`; with data parallelism, of the attention alone too, each replica learns for itself.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = settings_of_environment()
        self._keeper: StateKeeper | None = None
        self._began = 0.0  # when the last step did
        self.ngram_corpus = _Corpus(self)
        self._group = get_dp_tp_group()
        self._drafter: TreeDrafter | None = None
        self._passed: tuple[list[str], torch.Tensor, torch.Tensor, Any] | None = None
        self._names: list[str] = []  # of the pass that is being made

    def alloc_memory_pool(self, **named: Any) -> None:
        """As many requests as SGLang has room for are known now."""
        super().alloc_memory_pool(**named)
        if self._group.rank_in_group == 0:
            config = self.model_runner.model_config
            drafter = server_drafter(self._settings, self.max_batch_size)
            known: dict[str, Any] = {
                "vocab_size": int(config.vocab_size),
                "fingerprint": _fingerprint(self.target_worker),
            }
            self._keeper = StateKeeper(drafter, self._settings, rank=_replica(), **known, log=_log)
            self._keeper.watch(lambda: self._began)
            self._drafter = TreeDrafter(
                drafter,
                requests=self.max_batch_size,
                size=self.draft_token_num,
                max_length=int(config.context_len),
                vocabulary=int(config.vocab_size),
            )

    def clear_cache_pool(self) -> None:
        """All requests have ended; what was learned stays."""
        if self._drafter is not None:
            self._drafter.reset()

    def forget(self, names: list[str]) -> None:
        """These requests have left."""
        if self._drafter is not None:
            self._drafter.forget(names)

    def add_external_corpus(self, corpus_id: str, token_chunks: list[list[int]]) -> int:
        """Not this way."""
        raise UnsupportedError(
            "ADED reads no corpus of NGRAM's; leave out the option, or use --speculative-algorithm NGRAM"
        )

    def remove_external_corpus(self, corpus_id: str) -> None:
        """There is none."""

    def list_external_corpora(self) -> dict[str, int]:
        """There is none."""
        return {}

    def _prepare_draft_tokens(self, batch: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        self._began, running = time.perf_counter(), self._running(batch)
        self._names = [request.name for request in running]
        drafts = self._drafter(running, self._scored()) if self._drafter is not None else None
        if self._group.world_size > 1:
            drafts = self._group.broadcast_object(drafts, src=0)
        assert drafts is not None
        return drafts

    def _running(self, batch: Any) -> list[Running]:
        """The requests of a batch. With overlap the last step's tokens are not yet among a request's own."""
        late: list[list[int]] = [[] for _ in batch.reqs]
        if self.enable_overlap and not batch.grammar_needs_sync():
            tokens = batch.spec_info.accept_tokens.cpu().view(len(batch.reqs), -1).tolist()
            late = [row[:n] for row, n in zip(tokens, batch.spec_info.accept_lens.cpu().tolist(), strict=True)]
        return [_request(request, more) for request, more in zip(batch.reqs, late, strict=True)]

    def _update_ngram_corpus(self, batch: Any) -> None:
        """Learned with the next drafts."""

    def forward_batch_generation(self, batch: Any, *arguments: Any, **named: Any) -> Any:
        """One step; see `NGRAMWorker`."""
        self._names = []
        result = super().forward_batch_generation(batch, *arguments, **named)
        if self._names:
            self._keep_scores(getattr(result.logits_output, "next_token_logits", None))
        return result

    def _keep_scores(self, logits: torch.Tensor | None) -> None:
        """Begin to copy the likeliest tokens of every row to the host; the next drafts wait for it."""
        self._passed = None
        if self._drafter is None or logits is None or len(logits) != len(self._names) * self.draft_token_num:
            return
        probs, ids = logits.float().softmax(dim=-1).topk(min(self._drafter.top_k, logits.shape[1]), dim=-1)
        if logits.is_cuda:
            ids, probs = ids.to("cpu", non_blocking=True), probs.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        else:
            copied = None
        self._passed = self._names, ids, probs, copied

    def _scored(self) -> Scored | None:
        if self._passed is None:
            return None
        (names, ids, probs, copied), self._passed = self._passed, None
        if copied is not None:
            copied.synchronize()
        return Scored(names, ids.numpy().astype(np.int32), probs.numpy().astype(np.float32))


def _request(request: Any, late: list[int]) -> Running:
    prompt, said = request.origin_input_ids_unpadded, request.output_ids

    def tokens(start: int) -> list[int]:
        begun = len(prompt) + len(said)
        if start >= begun:
            return late[start - begun :]
        own = list(said[max(start - len(prompt), 0) :])
        return [*prompt[start:], *own, *late]

    def asked() -> Asked:
        given = getattr(getattr(request, "sampling_params", None), "custom_params", None)
        return Asked.or_nothing(given, getattr(request, "lora_id", None))

    return Running(request.rid, len(prompt) + len(said) + len(late), tokens, asked)


def settings_of_environment() -> Settings:
    """What was set.

    Raises:
        SettingsError: a value that does not fit, or a setting that trees of one size have no use for.
    """
    settings = Settings.read()
    if settings.most is not None or settings.min_probability != Settings.min_probability:
        raise SettingsError(
            "SGLang's trees have the size of --speculative-num-draft-tokens; leave out ADED_MAX_DRAFT_TOKENS and "
            "ADED_MIN_PROBABILITY"
        )
    return settings


def _replica() -> int:
    """The number of the data-parallel replica, whether it has ranks of its own or shares them but for attention."""
    parallel = get_parallel()
    return int(parallel.attn_dp_rank if parallel.attn_dp_enabled else parallel.dp_rank or 0)


def _fingerprint(worker: Any) -> str:
    """That of the tokenizer; "", which agrees with all, where SGLang runs without one."""
    tokenizer = getattr(worker, "tokenizer", None)
    return "" if tokenizer is None else vocabulary_fingerprint(tokenizer.get_vocab())


class _Corpus:
    """What NGRAM's worker asks of its corpus, which this worker has none of."""

    def __init__(self, worker: AdedWorker) -> None:
        self._worker = worker

    def erase_match_state(self, names: list[str]) -> None:
        self._worker.forget(names)

    def synchronize(self) -> None:
        pass

    def reset(self) -> None:
        pass
