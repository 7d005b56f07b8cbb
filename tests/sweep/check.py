"""One class against plain `generate`: every way of asking, with drafts of which some are accepted and some are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import aded
from aded.errors import UnsupportedError
from support.oracle import Chain, ChainThenWrong, Oracle, Uneven
from sweep.shrink import VOCABULARY

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]])
_NEW = 12  # tokens of an answer


@dataclass
class Verdict:
    """What came of a class.

    Attributes:
        kind: "equal", "equal but for batches", "refused", "WRONG" or "crash".
        reason: why it was refused, or what happened.
        drafted, accepted: tokens, in all runs together.
        runs: how many ways of asking were compared, those that fell back included.
        trees: whether siblings were verified together.
        refused: the ways that were.
    """

    kind: str = "equal"
    reason: str = ""
    drafted: int = 0
    accepted: int = 0
    runs: int = 0
    trees: bool = False
    refused: list[str] = field(default_factory=list)


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.cat([PROMPT, PROMPT.flip(1), PROMPT.roll(5, 1)])
    mask = torch.ones_like(ids)
    mask[1, :5] = mask[2, :1] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def _asked() -> dict[str, tuple[dict[str, Any], Callable[[list[Any]], Any], Any]]:
    """By name: the inputs and options of `generate`, a drafter that knows the answers, and its budget."""

    def knowing(kind: Any) -> Callable[[list[Any]], Any]:
        return lambda answers: kind(answers[0], vocabulary=VOCABULARY)

    inputs = {"input_ids": PROMPT}
    greedy = {**inputs, "do_sample": False}
    asked: dict[str, Any] = {
        "greedy": (greedy, knowing(Oracle), 8),
        "chains": (greedy, knowing(ChainThenWrong), 6),
        "no drafts": (greedy, knowing(Oracle), 0),
        "sampled": ({**inputs, "do_sample": True, "top_k": 20, "temperature": 1.3}, knowing(Oracle), 8),
        "auto": (greedy, knowing(Chain), "auto"),
        "processors": ({**greedy, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}, knowing(Oracle), 8),
    }
    asked["batch"] = ({**_batch(), "do_sample": False}, Uneven, 8)
    asked["sampled batch"] = ({**_batch(), "do_sample": True}, Uneven, 8)
    return asked


def _said(model: Any, asked: dict[str, Any], **ours: Any) -> torch.Tensor:
    torch.manual_seed(11)
    said: torch.Tensor = model.generate(**asked, max_new_tokens=_NEW, min_new_tokens=_NEW, **ours)
    return said


@torch.no_grad()
def check(model: Any, *, quick: bool = False) -> Verdict:
    """Compare; a model whose plain `generate` fails raises what that raises.

    Args:
        quick: without measuring what steps cost.
    """
    verdict = Verdict()
    for name, (asked, knowing, budget) in _asked().items():
        if quick and budget == "auto":
            continue
        try:
            plain = _said(model, asked)
        except Exception:
            if name == "greedy":
                raise
            continue  # it cannot be asked so
        drafter, stats = knowing(plain[:, -_NEW:].tolist()), aded.Stats()
        ours = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": budget, "stats": stats}
        try:
            said = _said(model, asked, **ours)
        except UnsupportedError as error:
            verdict.refused.append(name)
            verdict.reason = verdict.reason or str(error)
            try:
                said = _said(model, asked, **ours, on_unsupported="fallback")
            except Exception as error:
                return Verdict("crash", f"{name}, falling back: {type(error).__name__} {error}")
        except Exception as error:
            return Verdict("crash", f"{name}: {type(error).__name__} {error}")
        if not torch.equal(plain, said):
            return Verdict("WRONG", name)
        verdict.runs += 1
        verdict.drafted, verdict.accepted = verdict.drafted + stats.drafted, verdict.accepted + stats.accepted
        verdict.trees |= name == "greedy" and stats.accepted > 0
        if name == "chains" and name not in verdict.refused and not 0 < stats.accepted < stats.drafted:
            return Verdict("WRONG", f"{name}: {stats.accepted} of {stats.drafted} drafted tokens accepted")
    if verdict.refused:
        verdict.kind = "equal but for batches" if all("batch" in name for name in verdict.refused) else "refused"
    return verdict
