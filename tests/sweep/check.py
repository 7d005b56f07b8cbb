"""One class against plain `generate`: every way of asking, with drafts of which some are accepted and some are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor

import aded
from aded.errors import UnsupportedError
from support.oracle import Chain, ChainThenWrong, Oracle, Uneven
from sweep.inputs import inputs_of
from sweep.shrink import VOCABULARY

_NEW = 12  # tokens of an answer


@dataclass
class Verdict:
    """What came of a class.

    Attributes:
        kind: "equal", "equal but for batches" (or images, or sound), "refused", "WRONG" or "crash".
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


class Neighbours(LogitsProcessor):
    """Favours in each row what its neighbour said last: it must see all rows."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raised = scores.clone()
        raised[torch.arange(len(scores)), input_ids.roll(1, 0)[:, -1]] += 1.0
        return raised


def _asked(name: str, model: Any) -> dict[str, tuple[dict[str, Any], Callable[[list[Any]], Any], Any]]:
    """By name: the inputs and options of `generate`, a drafter that knows the answers, and its budget."""

    def knowing(kind: Any) -> Callable[[list[Any]], Any]:
        return lambda answers: kind(answers[0], vocabulary=VOCABULARY)

    asked: dict[str, Any] = {}
    for kind, given in inputs_of(name, model).items():
        greedy, sampled = {**given.one, "do_sample": False}, {**given.one, "do_sample": True}
        ways: dict[str, Any] = {
            "greedy": (greedy, knowing(Oracle), 8),
            "chains": (greedy, knowing(ChainThenWrong), 6),
            "sampled": ({**sampled, "top_k": 20, "temperature": 1.3}, knowing(Oracle), 8),
            "batch": ({**given.batch, "do_sample": False}, Uneven, 8),
        }
        if not asked:  # what depends little on images and sound is asked once
            ways |= {
                "no drafts": (greedy, knowing(Oracle), 0),
                "auto": (greedy, knowing(Chain), "auto"),
                "processors": ({**greedy, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}, knowing(Oracle), 8),
                "sampled batch": ({**given.batch, "do_sample": True}, Uneven, 8),
                "batch together": ({**given.batch, "do_sample": False, "logits_processor": [Neighbours()]}, Uneven, 8),
            }
        asked |= {way if kind == "text" else f"{way} with {kind}": how for way, how in ways.items()}
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
    ways = _asked(type(model).__name__, model)
    for name, (asked, knowing, budget) in ways.items():
        if quick and budget == "auto":
            continue
        try:
            plain = _said(model, asked)
        except Exception:
            if name.startswith("greedy"):
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
        verdict.trees |= name.startswith("greedy") and stats.accepted > 0
        if name.startswith("chains") and name not in verdict.refused and not 0 < stats.accepted < stats.drafted:
            return Verdict("WRONG", f"{name}: {stats.accepted} of {stats.drafted} drafted tokens accepted")
    if verdict.refused:
        verdict.kind = _kind_of(set(ways), verdict.refused)
    return verdict


def _kind_of(ways: set[str], refused: list[str]) -> str:
    """What to call a class of which these ways of asking were refused, and the others equal."""

    def given(names: Iterable[str]) -> set[str]:
        return {name.partition(" with ")[2] or "text" for name in names}

    lost = given(name for name in refused if "batch" not in name)
    if "text" in lost or lost >= given(ways):
        return "refused"
    return "equal but for " + " and ".join(sorted(lost) or ["batches"])
