"""How well `adaptive` drafts after its table has learned much else: a trace replayed before and after other text.

`python -m benchmarks.crowding TRACE --text FOLDER --tokens 50000000` prints a Markdown table of tokens a step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from aded.cli.options import Model
from aded.cli.progress import progress_bar
from aded.corpus.text import blocks_of_files, text_files
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.learning import ANSWER_PROBABILITY
from aded.engines.transformers.loading import load
from aded.errors import TraceFileError
from aded.traces.replay import replay
from aded.traces.trace import Trace
from benchmarks.command import new_app, run

__all__ = ["app", "crowd", "tokens_of"]

app = new_app()

_ANSWER = 256  # tokens that are learned at once, as those of one answer


def tokens_of(paths: list[Path], tokenizer: Any) -> Iterator[NDArray[np.int32]]:
    """The texts in pieces of an answer's length; those of several blocks are tokenised together."""
    blocks = blocks_of_files(text_files(paths))
    while texts := [block.text for block in islice(blocks, 16)]:
        for encoding in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = np.asarray(encoding.ids, np.int32)
            yield from (ids[start : start + _ANSWER] for start in range(0, len(ids), _ANSWER))


def crowd(drafter: AdaptiveDrafter, pieces: Iterator[NDArray[np.int32]], tokens: int, progress: Any) -> int:
    """Learn so many tokens as answers of other sequences are learned; returns how many there were."""
    learned = 0
    for piece in pieces:
        drafter.representative.learn_text(piece, probability=ANSWER_PROBABILITY)
        learned += len(piece)
        progress(min(learned, tokens), tokens)
        if learned >= tokens:
            break
    return learned


@app.command()
def main(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    text: Annotated[list[Path], typer.Option(help="A text file or a folder of them; may be repeated.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of them to learn.")] = 50_000_000,
    max_draft_tokens: Annotated[int, typer.Option(min=1, help="Most nodes of a draft.")] = 24,
    model: Model = None,
) -> None:
    """Replay a trace with a new table and with one that has learned other text; prints a Markdown table."""
    recorded, loaded = Trace.load(trace), load(model)
    if recorded.about.get("fingerprint") != loaded.fingerprint:
        raise TraceFileError(f"{trace} is of another tokenizer than {loaded.name}'s; give --model, or record it again")
    crowded = AdaptiveDrafter()
    with progress_bar("learning other text") as progress:
        learned = crowd(crowded, tokens_of(text, loaded.tokenizer), tokens, progress)
    used = crowded.representative.used / len(crowded.representative.arrays.keys)
    print("| table | each answer afresh | state kept |\n|---|---:|---:|")
    figures = []
    for name, drafter in (("new", AdaptiveDrafter()), (f"after {learned / 1e6:.0f} million tokens", crowded)):
        found = [
            replay(recorded, name, lambda: copy.deepcopy(drafter), max_draft_tokens, keep_state=keep).mat  # noqa: B023
            for keep in (False, True)
        ]
        figures.append(found)
        print(f"| {name} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)
    ratios = [after / before for before, after in zip(*figures, strict=True)]
    print(f"| after against new | {ratios[0]:.3f} | {ratios[1]:.3f} |")
    print(f"\n{len(recorded.sequences)} answers, {max_draft_tokens} nodes; the table was {used:.0%} full.")


if __name__ == "__main__":
    run(app)
