"""Is what we decode, bit for bit, what `generate` decodes? Texts and the scores of every emitted token, compared.

`python -m benchmarks.exactness --prompts question.jsonl --drafters adaptive,paper --budgets auto,4,16,64` answers each
prompt once by plain `generate` and once, or `--rounds` times, for each drafter and budget. It exits with 1 if a single
bit differs. With `--record FILE` answers are written down as they come, and a later run, or one beside it with another
`--part`, goes on from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

import aded
from aded.cli.options import Dtype, Model, Threads, most_of, plain_table, table_console, words_of
from aded.cli.progress import progress_bar
from aded.engines.transformers.loading import Loaded, load
from aded.errors import AdedError
from aded.files import digest
from aded.traces.prompts import Prompt, read_prompts
from benchmarks.command import new_app, run
from benchmarks.record import Record

__all__ = ["Agreement", "Answer", "app", "compare"]

app = new_app()


@dataclass(frozen=True)
class Way:
    """A drafter, the most tokens it may draft a step ("auto" or a number), and which of several equal runs this is."""

    drafter: str
    budget: str
    round: int


@dataclass(frozen=True)
class Answer:
    """One prompt's answer, beside plain decoding's.

    Attributes:
        prompt: its number in the file, from 0.
        same: its tokens are plain decoding's.
        scores, differing: vectors of scores compared, one for each token up to the first that differs; those of which
            any bit differs.
        drafted, accepted: draft tokens.
        promise: `stats.exact`.
        tokens: digest of its tokens.
    """

    prompt: int
    drafter: str
    budget: str
    round: int
    same: bool
    scores: int
    differing: int
    drafted: int
    accepted: int
    promise: str
    tokens: str

    @property
    def way(self) -> Way:
        return Way(self.drafter, self.budget, self.round)


@dataclass
class Agreement:
    """All answers of one way to draft; fields as of `Answer`, summed.

    Attributes:
        digest: of all tokens, to compare two runs by.
    """

    drafter: str
    budget: str
    round: int
    answers: int = 0
    same: int = 0
    scores: int = 0
    differing: int = 0
    drafted: int = 0
    accepted: int = 0
    promise: str = ""
    digest: str = ""

    @classmethod
    def of(cls, way: Way, answers: Iterable[Answer]) -> Agreement:
        """What `answers`, each of another prompt, come to."""
        found, tokens = cls(**asdict(way)), hashlib.blake2b(digest_size=4)
        for answer in sorted(answers, key=lambda answer: answer.prompt):
            found.answers += 1
            for name in ("same", "scores", "differing", "drafted", "accepted"):
                setattr(found, name, getattr(found, name) + getattr(answer, name))
            found.promise = answer.promise if found.promise in ("", answer.promise) else "various"
            tokens.update(answer.tokens.encode())
        found.digest = tokens.hexdigest()
        return found


def compare(
    loaded: Loaded,
    prompts: Iterable[tuple[int, Prompt]],
    ways: Sequence[Way],
    record: Record[Answer],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> Iterator[None]:
    """Answer prompts by plain decoding and in every way, into `record`; yields after each prompt.

    Args:
        prompts: each with its number; first turns are answered. What `record` has is not answered again.
        temperature: 0 is greedy; a sample of prompt i is drawn with seed i.
    """
    made = {way: aded.create_drafter(way.drafter) for way in ways}
    common: dict[str, Any] = loaded.options(max_new_tokens, temperature)
    common |= {"return_dict_in_generate": True, "output_logits": True}
    known = {(answer.prompt, answer.way) for answer in record.rows}
    for number, prompt in prompts:
        if left := [way for way in ways if (number, way) not in known]:
            ids = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])
            common["attention_mask"] = torch.ones_like(ids)
            torch.manual_seed(number)
            plain = loaded.model.generate(ids, **common)
            for way in left:
                stats, budget = aded.Stats(), way.budget
                ours: dict[str, Any] = {"custom_generate": aded.generate, "drafter": made[way]}
                ours |= {"max_draft_tokens": budget if budget == "auto" else int(budget), "stats": stats}
                torch.manual_seed(number)
                answer = loaded.model.generate(ids, **common, **ours)
                record.add(_compared(number, way, plain, answer, ids.shape[1], stats))
        yield


def _compared(number: int, way: Way, plain: Any, ours: Any, prompt: int, stats: aded.Stats) -> Answer:
    a, b = plain.sequences[0, prompt:].tolist(), ours.sequences[0, prompt:].tolist()
    scores = differing = 0
    for token, (x, y) in enumerate(zip(plain.logits, ours.logits, strict=False)):
        scores += 1
        differing += not torch.equal(x.float().view(torch.int32), y.float().view(torch.int32))
        if a[token : token + 1] != b[token : token + 1]:
            break
    tokens = digest(ours.sequences.numpy().tobytes())
    how = (way.drafter, way.budget, way.round)
    return Answer(number, *how, a == b, scores, differing, stats.drafted, stats.accepted, stats.exact, tokens)


def _part(text: str, prompts: Sequence[Prompt]) -> list[tuple[int, Prompt]]:
    """Every nth prompt, with its number: "2/3" is prompts 1, 4, 7, ..., counted from 0."""
    nth, _, of = text.partition("/")
    if not (nth.isdecimal() and of.isdecimal() and 1 <= int(nth) <= int(of)):
        raise AdedError(f"--part is which part of how many, like 1/2, not {text!r}")
    return list(enumerate(prompts))[int(nth) - 1 :: int(of)]


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON lines or text lines; the first turn of each is answered.")],
    model: Model = None,
    dtype: Dtype = None,
    threads: Threads = None,
    drafters: Annotated[str, typer.Option(help="Comma-separated.")] = "adaptive",
    budgets: Annotated[str, typer.Option(help="Most draft tokens a step: numbers or auto, comma-separated.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Answer so often in each way, each time with a new drafter.")] = 1,
    per_category: Annotated[int | None, typer.Option(min=1, help="Prompts of each category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts in all.")] = None,
    part: Annotated[str, typer.Option(help="Answer only this part of the prompts, as of how many: 1/2.")] = "1/1",
    record: Annotated[Path | None, typer.Option(help="Write answers to this file, and go on from those in it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 is greedy; samples have the prompt's number as seed.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare our answers with plain `generate`'s, tokens and the bits of all scores."""
    if threads is not None:
        torch.set_num_threads(threads)
    sizes = [str(most_of(size)) for size in words_of(budgets, "--budgets")]
    kinds = itertools.product(words_of(drafters, "--drafters"), sizes, range(1, rounds + 1))
    ways = [Way(*kind) for kind in kinds]
    asked = _part(part, read_prompts(prompts, limit=limit, per_category=per_category))
    loaded = load(model, dtype=dtype or "bfloat16")
    settings: dict[str, Any] = {"model": loaded.name, "dtype": str(loaded.model.dtype)}
    settings |= {"prompts": digest(prompts.read_bytes()), "tokens": max_new_tokens, "temperature": temperature}
    settings |= {"torch": torch.__version__, "transformers": transformers.__version__}
    kept = Record(Answer, record, settings)
    with progress_bar("prompts") as progress:
        answered = compare(loaded, asked, ways, kept, max_new_tokens=max_new_tokens, temperature=temperature)
        for done, _ in enumerate(answered, 1):
            progress(done, len(asked))
    found = [Agreement.of(way, (answer for answer in kept.rows if answer.way == way)) for way in ways]
    if as_json:
        print(json.dumps([asdict(agreement) for agreement in found]))
    else:
        _show(found)
    if any(x.same < x.answers or x.differing for x in found):
        raise typer.Exit(1)


def _show(found: Sequence[Agreement]) -> None:
    table = plain_table()
    for name in ("drafter", "budget", "promise", "same\nanswers", "other\nscores", "accepted\ndrafts", "digest"):
        table.add_column(name, no_wrap=True)
    for x in found:
        figures = f"{x.same} of {x.answers}", f"{x.differing} of {x.scores}", f"{x.accepted} of {x.drafted}"
        table.add_row(x.drafter, x.budget, x.promise, *figures, x.digest)
    table_console().print(table)


if __name__ == "__main__":
    run(app)
