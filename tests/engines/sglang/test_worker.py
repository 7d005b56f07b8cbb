"""What SGLang asks of its plugins, with SGLang's own code but for its kernels: `make sglang-test`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("sglang") is None:
    pytest.skip("SGLang is not there: make sglang-test", allow_module_level=True)

from support.sglang_over import pretend

pretend()

from sglang.srt.speculative import ngram_worker  # noqa: E402
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # noqa: E402

from aded.engines.sglang import api as module  # noqa: E402
from aded.engines.sglang.engine import FILL, flatten  # noqa: E402
from aded.errors import SettingsError, UnsupportedError  # noqa: E402
from aded.sglang_plugin import register  # noqa: E402
from aded.tree import DraftTree  # noqa: E402

SIZE, VOCABULARY = 6, 40


def test_the_algorithm_is_known_by_name_and_has_all_that_sglang_asks_for() -> None:
    register()
    register()
    algorithm: Any = SpeculativeAlgorithm.from_string("aded")
    assert algorithm.is_ngram()
    assert algorithm.supports_overlap
    assert not any((algorithm.has_draft_kv(), algorithm.carries_draft_hidden_states(), algorithm.need_topk()))
    assert algorithm.create_worker(SimpleNamespace(disable_overlap_schedule=False)) is module.AdedWorker
    # Whatever the built-in algorithms answer, SGLang may ask.
    asked = {name for name in vars(SpeculativeAlgorithm) if not name.startswith("_") and name.islower()}
    assert asked - set(dir(algorithm)) <= {"from_string", "register"}


def test_sglang_finds_our_trees_in_their_masks() -> None:
    trees = [
        DraftTree.build([5, 6, 7, 8], [-1, -1, 0, 2], [-0.1, -0.5, -0.6, -0.7]),
        DraftTree.empty(),
        DraftTree.chain([1, 2, 3, 4, 5]),
    ]
    tokens, mask = flatten(trees, [9, 9, 9], SIZE)
    child, sibling = ngram_worker._derive_tree_links(mask, 3, SIZE)
    assert child.tolist() == [[1, 3, -1, 4, 5, -1], [1, 2, 3, 4, 5, -1], [1, 2, 3, 4, 5, -1]]
    assert sibling.tolist() == [[-1, 2, -1, -1, -1, -1], [-1] * SIZE, [-1] * SIZE]
    assert tokens.reshape(3, SIZE)[1].tolist() == [9] + [FILL] * (SIZE - 1)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of SGLang's is there that would allocate; tables are small."""
    monkeypatch.setattr(ngram_worker.NGRAMWorker, "alloc_memory_pool", lambda self, **named: None)
    monkeypatch.setattr(module, "_replica", lambda: 0)
    for name, size in (("MEMORY_MB", "1"), ("SEQUENCE_MB", "0.2")):
        monkeypatch.setenv(f"ADED_{name}", size)


class Group:
    """A rank's side of a tensor-parallel group: what the first sends, the others get."""

    sent: Any = None

    def __init__(self, rank: int, size: int = 1) -> None:
        self.rank_in_group, self.world_size = rank, size

    def broadcast_object(self, thing: Any, src: int = 0) -> Any:
        if self.rank_in_group == src:
            Group.sent = thing
        return Group.sent


class Model:
    """SGLang's step around `_prepare_draft_tokens`: what follows two tokens is what `next` says."""

    def __init__(self, overlap: bool, group: Group | None = None) -> None:
        worker: Any = object.__new__(module.AdedWorker)
        worker.enable_overlap, worker.draft_token_num, worker._group = overlap, SIZE, group or Group(0)
        worker._passed, worker._names, worker.ngram_corpus = None, [], module._Corpus(worker)
        worker._drafter = worker._keeper = None
        worker._settings, worker.max_batch_size = module.settings_of_environment(), 4
        config = SimpleNamespace(context_len=300, vocab_size=VOCABULARY)
        worker.model_runner = SimpleNamespace(model_config=config)
        worker._target_worker = SimpleNamespace(tokenizer=None)
        worker.alloc_memory_pool()
        self.worker, self.overlap = worker, overlap
        self.requests: list[Any] = []
        self.info = SimpleNamespace(accept_tokens=torch.zeros(0, dtype=torch.int32), accept_lens=torch.zeros(0))
        self.accepted = self.rejected = 0

    def add(self, name: str, prompt: list[int], *, lora: str | None = None, **params: Any) -> None:
        asked = {"sampling_params": SimpleNamespace(custom_params=params or None), "lora_id": lora}
        self.requests.append(SimpleNamespace(rid=name, origin_input_ids_unpadded=prompt, output_ids=[], **asked))

    @staticmethod
    def next(text: list[int]) -> int:
        return (3 * text[-1] + text[-2]) % 11

    def prefill(self) -> None:
        """As SGLang's: one token each, which under overlap is not yet among a request's own."""
        firsts = [self.next(request.origin_input_ids_unpadded) for request in self.requests]
        rows = torch.zeros((len(firsts), SIZE), dtype=torch.int32)
        rows[:, 0] = torch.tensor(firsts)
        self._emitted(rows, torch.ones(len(firsts), dtype=torch.int32))

    def _emitted(self, rows: torch.Tensor, counts: torch.Tensor) -> None:
        # With overlap the results of the step before are processed now.
        done = (self.info.accept_tokens.view(-1, SIZE), self.info.accept_lens) if self.overlap else (rows, counts)
        for request, row, n in zip(self.requests, *done, strict=False):
            request.output_ids.extend(row[: int(n)].tolist())
        self.info = SimpleNamespace(accept_tokens=rows.flatten(), accept_lens=counts)

    def texts(self) -> list[list[int]]:
        late = [[]] * len(self.requests)
        if self.overlap:
            rows = self.info.accept_tokens.view(-1, SIZE).tolist()
            late = [row[: int(n)] for row, n in zip(rows, self.info.accept_lens, strict=True)]
        return [
            [*r.origin_input_ids_unpadded, *r.output_ids, *more] for r, more in zip(self.requests, late, strict=True)
        ]

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        batch = SimpleNamespace(reqs=self.requests, spec_info=self.info, grammar_needs_sync=lambda: False)
        texts = self.texts()
        tokens, mask = self.worker._prepare_draft_tokens(batch)
        assert tokens.shape == (len(texts) * SIZE,)
        assert mask.shape == (len(texts) * SIZE * SIZE,)
        child, sibling = ngram_worker._derive_tree_links(mask, len(texts), SIZE)
        rows, counts = torch.zeros((len(texts), SIZE), dtype=torch.int32), torch.zeros(len(texts), dtype=torch.int32)
        logits = torch.zeros(len(texts) * SIZE, VOCABULARY)
        for i, text in enumerate(texts):
            drafted = tokens.reshape(-1, SIZE)[i].tolist()
            assert drafted[0] == text[-1]
            paths, stack = {0: text}, [0]
            while stack:
                row = stack.pop()
                logits[i * SIZE + row, self.next(paths[row])] = 5.0
                below = int(child[i, row])
                while below >= 0:
                    paths[below] = [*paths[row], drafted[below]]
                    stack.append(below)
                    below = int(sibling[i, below])
            assert len(paths) == SIZE
            row, emitted = 0, []
            while row >= 0:
                emitted.append(self.next([*text, *emitted]))
                row = int(child[i, row])
                while row >= 0 and drafted[row] != emitted[-1]:
                    row = int(sibling[i, row])
            rows[i, : len(emitted)], counts[i] = torch.tensor(emitted), len(emitted)
            self.accepted += len(emitted) - 1
            self.rejected += SIZE - len(emitted)
        self.worker._keep_scores(logits)
        self._emitted(rows, counts)
        return tokens, mask


def plain(prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(Model.next(text))
    return text


@pytest.mark.parametrize("overlap", [False, True])
def test_texts_are_the_models_own_with_results_at_once_or_one_step_late(overlap: bool) -> None:
    model = Model(overlap)
    prompts = [[1, 2], [5, 3, 8], [0, 7]]
    for name, prompt in zip("abc", prompts, strict=True):
        model.add(name, prompt)
    model.prefill()
    for _ in range(15):
        model.step()
    for prompt, text in zip(prompts, model.texts(), strict=True):
        assert text == plain(prompt, len(text) - len(prompt))
    assert model.accepted > 30
    assert model.rejected > 30
    model.worker.ngram_corpus.erase_match_state(["a", "b"])
    assert list(model.worker._drafter._slots) == ["c"]
    model.worker.clear_cache_pool()
    assert not model.worker._drafter._slots


def test_the_other_ranks_are_sent_what_the_first_drafted() -> None:
    first, second = Model(True, Group(0, 2)), Model(True, Group(1, 2))
    for model in (first, second):
        model.add("a", [1, 2])
        model.prefill()
    for _ in range(20):
        ours, theirs = first.step(), second.step()
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert first.texts() == second.texts()
    assert second.accepted == first.accepted > 5
    with pytest.raises(UnsupportedError, match="NGRAM"):
        first.worker.add_external_corpus("x", [[1]])


def test_what_was_learned_is_kept_by_the_settings_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADED_STATE", str(tmp_path / "learned-{rank}.safetensors"))

    def accepted(steps: int) -> int:
        model = Model(False)
        model.add("a", [1, 2])
        model.prefill()
        for _ in range(steps):
            model.step()
        model.worker._keeper.close()
        return model.accepted

    first = accepted(8)
    assert [file.name for file in tmp_path.iterdir()] == ["learned-0.safetensors"]
    assert accepted(8) > first
    monkeypatch.setenv("ADED_MAX_DRAFT_TOKENS", "3")
    with pytest.raises(SettingsError, match="speculative-num-draft-tokens"):
        Model(False)


def test_requests_ask_by_custom_params_and_adapters_are_apart() -> None:
    model = Model(False)
    model.add("a", [1, 2])
    model.add("b", [1, 2], aded_drafts="off")
    model.add("c", [1, 2], aded_tenant="somebody")
    model.add("d", [1, 2], lora="adapter")
    model.prefill()
    for _ in range(10):
        model.step()
    drafter = model.worker._drafter
    slots = {name: drafter._slots.find(name) for name in "abcd"}
    assert not len(drafter._trees[slots["b"]])
    assert all(len(drafter._trees[slots[name]]) for name in "acd")
    which = drafter._speculator._drafts._which
    assert len({int(which[slot]) for slot in slots.values()}) == 4
    for text in model.texts():
        assert text == plain([1, 2], len(text) - 2)
