"""Is what we decode, bit for bit, what `generate` decodes? Texts and the scores of every emitted token, compared.

`python -m benchmarks.exactness --prompts question.jsonl --drafters adaptive,paper --budgets auto,4,16,64` answers each
prompt once by plain `generate` and once for each drafter and budget. It exits with 1 if a single bit differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import aded
from aded.cli.options import Dtype, Model, Threads, most_of, plain_table, words_of
from aded.cli.progress import progress_bar
from aded.engines.base.options import MaxDraftTokens
from aded.engines.transformers.loading import Loaded, load
from aded.traces.prompts import Prompt, read_prompts
from benchmarks.command import new_app, run

__all__ = ["Agreement", "app", "compare"]

app = new_app()


@dataclass
class Agreement:
    """What one way to draft gave beside plain decoding.

    Attributes:
        answers, same: in all, and those whose tokens are plain decoding's.
        scores, differing: vectors of scores compared, one for each token up to the first that differs; those of which
            any bit differs.
        drafted, accepted: draft tokens.
        promise: what `stats.exact` said of all answers.
        digest: of all tokens, to compare two runs by.
    """

    drafter: str
    budget: str
    answers: int = 0
    same: int = 0
    scores: int = 0
    differing: int = 0
    drafted: int = 0
    accepted: int = 0
    promise: str = ""
    digest: str = ""


def compare(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    drafters: Sequence[str],
    budgets: Sequence[MaxDraftTokens],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> Iterator[list[Agreement]]:
    """After each prompt, how far every drafter with every budget agreed with plain decoding.

    Args:
        prompts: first turns are answered.
        temperature: 0 is greedy; a sample of prompt i is drawn with seed i.
    """
    found = [Agreement(drafter, str(budget)) for drafter in drafters for budget in budgets]
    makers = {name: aded.create_drafter(name) for name in drafters}
    digests = [hashlib.blake2b(digest_size=4) for _ in found]
    common: dict[str, Any] = loaded.options(max_new_tokens, temperature)
    common |= {"return_dict_in_generate": True, "output_logits": True}
    for number, prompt in enumerate(prompts):
        ids = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])
        common["attention_mask"] = torch.ones_like(ids)
        torch.manual_seed(number)
        plain = loaded.model.generate(ids, **common)
        for agreement, digest in zip(found, digests, strict=True):
            stats, budget = aded.Stats(), agreement.budget
            ours: dict[str, Any] = {"custom_generate": aded.generate, "drafter": makers[agreement.drafter]}
            ours |= {"max_draft_tokens": budget if budget == "auto" else int(budget), "stats": stats}
            torch.manual_seed(number)
            answer = loaded.model.generate(ids, **common, **ours)
            _add(agreement, plain, answer, ids.shape[1], stats)
            digest.update(answer.sequences.numpy().tobytes())
            agreement.digest = digest.hexdigest()
        yield found


def _add(agreement: Agreement, plain: Any, ours: Any, prompt: int, stats: aded.Stats) -> None:
    a, b = plain.sequences[0, prompt:].tolist(), ours.sequences[0, prompt:].tolist()
    agreement.answers += 1
    agreement.same += a == b
    agreement.drafted += stats.drafted
    agreement.accepted += stats.accepted
    agreement.promise = stats.exact if agreement.promise in ("", stats.exact) else "various"
    for token, (x, y) in enumerate(zip(plain.logits, ours.logits, strict=False)):
        agreement.scores += 1
        agreement.differing += not torch.equal(x.float().view(torch.int32), y.float().view(torch.int32))
        if a[token : token + 1] != b[token : token + 1]:
            return


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON lines or text lines; the first turn of each is answered.")],
    model: Model = None,
    dtype: Dtype = None,
    threads: Threads = None,
    drafters: Annotated[str, typer.Option(help="Comma-separated.")] = "adaptive",
    budgets: Annotated[str, typer.Option(help="Most draft tokens a step: numbers or auto, comma-separated.")] = "auto",
    per_category: Annotated[int | None, typer.Option(min=1, help="Prompts of each category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts in all.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 is greedy; samples have the prompt's number as seed.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare our answers with plain `generate`'s, tokens and the bits of all scores."""
    if threads is not None:
        torch.set_num_threads(threads)
    names, sizes = words_of(drafters, "--drafters"), [most_of(size) for size in words_of(budgets, "--budgets")]
    asked = read_prompts(prompts, limit=limit, per_category=per_category)
    loaded = load(model, dtype=dtype or "bfloat16")
    found: list[Agreement] = []
    with progress_bar("prompts") as progress:
        ways = compare(loaded, asked, names, sizes, max_new_tokens=max_new_tokens, temperature=temperature)
        for done, latest in enumerate(ways, 1):
            found = latest
            progress(done, len(asked))
    if as_json:
        print(json.dumps([asdict(agreement) for agreement in found]))
    else:
        table = plain_table()
        for name in ("drafter", "budget", "promise", "same\nanswers", "other\nscores", "accepted\ndrafts", "digest"):
            table.add_column(name, no_wrap=True)
        for x in found:
            figures = f"{x.same} of {x.answers}", f"{x.differing} of {x.scores}", f"{x.accepted} of {x.drafted}"
            table.add_row(x.drafter, x.budget, x.promise, *figures, x.digest)
        Console(highlight=False).print(table)
    if any(x.same < x.answers or x.differing for x in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
