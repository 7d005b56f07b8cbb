"""lm-evaluation-harness on a local task: identical samples and scores, whatever the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aded
from support.counted import Counted

TASK = {
    "task": "spelled",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
}
QUESTIONS = [
    ("Repeat: one two three four one two three four", "one two three four"),
    ("The capital of France is", "Paris"),
    ("Repeat after me, twice: the cat sat on the mat.", "the cat sat on the mat."),
    ("2 + 2 =", "4"),
    ("The days of the week are Monday, Tuesday,", "Wednesday"),
]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.filterwarnings("ignore")
def test_scores_and_samples_are_identical(embedded, counted: Counted, tmp_path: Path, size: int) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="the extra `clients` installs it")
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = embedded
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in QUESTIONS]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.jsonl")}}}

    def said() -> Any:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        found = lm_eval.simple_evaluate(model=harness, tasks=[task], log_samples=True, bootstrap_iters=0)
        samples = [(sample["doc_id"], sample["resps"], sample["exact_match"]) for sample in found["samples"]["spelled"]]
        return found["results"]["spelled"], samples

    plain = said()
    aded.accelerate(model, drafter=counted, max_draft_tokens=12)
    assert said() == plain
    assert 0 < counted.accepted < counted.drafted
