"""A corpus from plain text: streamed in blocks, tokenised by other processes, learned here, resumable."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import CorpusFileError
from aded.representative import Representative
from aded.representative.corpus import Corpus

_BLOCK = 1 << 18
_CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Block:
    """A piece of text; `position` is how many blocks of the same sources end with it, `size` its bytes."""

    text: str
    position: int
    size: int


def text_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves, and all files below folders, in a fixed order.

    Raises:
        CorpusFileError: a path is not there, or there is no file in all of them.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found.extend(sorted(file for file in path.rglob("*") if file.is_file()))
        elif path.is_file():
            found.append(path)
        else:
            raise CorpusFileError(f"there is no text {path}; check the path")
    if not found:
        raise CorpusFileError("the folders given hold no files; give texts to learn from")
    return found


def blocks_of_files(files: Sequence[Path]) -> Iterator[Block]:
    """Files in blocks of about a quarter of a megabyte that end with lines.

    A file that begins with zero bytes among others is no text and is left out; zero bytes further on are dropped.
    """
    pieces = chain.from_iterable(map(_pieces, files))
    for position, piece in enumerate(pieces, 1):
        yield Block(piece.decode("utf-8", errors="ignore"), position, len(piece))


def _pieces(file: Path) -> Iterator[bytes]:
    rest = b""
    with file.open("rb") as stream:
        while data := stream.read(_BLOCK):
            if b"\0" in data:
                if stream.tell() == len(data):
                    return  # not a text
                data = data.replace(b"\0", b"")
            cut = data.rfind(b"\n") + 1
            if not cut and len(rest) < 4 * _BLOCK:
                rest += data
                continue
            cut = cut or len(data)
            yield rest + data[:cut]
            rest = data[cut:]
    if rest:
        yield rest


def blocks_of_texts(texts: Iterable[str]) -> Iterator[Block]:
    """Texts of any length gathered into blocks."""
    position, size, gathered = 0, 0, list[str]()
    for text in texts:
        gathered.append(text)
        size += len(text.encode())
        if size >= _BLOCK:
            position += 1
            yield Block("\n\n".join(gathered), position, size)
            gathered, size = [], 0
    if gathered:
        yield Block("\n\n".join(gathered), position + 1, size)


_tokenizer: Any = None


def _begin(description: str) -> None:
    global _tokenizer
    from tokenizers import Tokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent tells these
    Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = Tokenizer.from_str(description)


def _end_with_parent() -> None:
    # A parent that was killed tells nobody: its pool's processes would wait for work for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tokens(text: str) -> NDArray[np.int32]:
    return np.asarray(_tokenizer.encode(text, add_special_tokens=False).ids, np.int32)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Within it, and in processes begun within it until they say otherwise, Ctrl-C does nothing."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def learn_blocks(
    table: Representative,
    blocks: Iterable[Block],
    tokenizer: Any,
    *,
    processes: int,
    partial: Path,
    about: dict[str, Any],
    done: int = 0,
    progress: Callable[[int, int], None] = lambda size, tokens: None,
) -> tuple[int, int]:
    """Learn blocks in order; returns (bytes, tokens) learned now.

    Args:
        tokenizer: a fast tokenizer of transformers; text is tokenised in `processes` processes beside this one.
        partial: where the table is kept about once a minute, with how many blocks it holds.
        done: blocks to pass over, learned earlier.
        progress: told bytes and tokens learned so far.

    Raises:
        CorpusFileError: the tokenizer has no fast version to hand to other processes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CorpusFileError("this model's tokenizer has no fast version, which building from text needs")
    size = tokens = 0
    saved = time.monotonic()
    learned, whole = done, True  # blocks in the table, and that the last of them is all there
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (backend.to_str(),)) as pool:
        try:
            # Two blocks a process are under way; the rest of the text stays on disk.
            for block, ids in _tokenised(pool, (block for block in blocks if block.position > done), 2 * processes):
                whole = False
                table.learn_text(ids)
                learned, whole = block.position, True
                size, tokens = size + block.size, tokens + len(ids)
                progress(size, tokens)
                if time.monotonic() - saved > _CHECKPOINT_S:
                    Corpus.write(table, partial, {**about, "blocks": learned})
                    saved = time.monotonic()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            if whole and learned > done:
                Corpus.write(table, partial, {**about, "blocks": learned})
            raise
    return size, tokens


def _tokenised(
    pool: ProcessPoolExecutor, blocks: Iterable[Block], most: int
) -> Iterator[tuple[Block, NDArray[np.int32]]]:
    """Blocks in order with their tokens; at most so many wait."""
    waiting: deque[tuple[Block, Future[NDArray[np.int32]]]] = deque()
    for block in blocks:
        with _no_interrupts():  # the first starts the processes, which inherit this
            waiting.append((block, pool.submit(_tokens, block.text)))
        if len(waiting) > most:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
