"""Files whose checksum is right and whose contents are not: each is refused with one clear error, or harmless."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from aded import Outcome, create_drafter
from aded.budget import CostCurve
from aded.drafters.adaptive import AdaptiveDrafter
from aded.engines.base import cost_files
from aded.errors import AdedError
from aded.files import FileKind
from aded.representative import Corpus, Representative
from aded.representative.storage import CORPUS, STATE
from aded.traces.prompts import read_prompts
from aded.traces.replay import replay
from aded.traces.trace import TRACE, Trace, TracedSequence

VOCABULARY = 50
_TEXT = np.array([3, 8, 5, 9, 3, 8, 5, 7, 3, 8, 5, 9, 40, 41, 42], np.int32)

_NUMBERS = st.one_of(
    st.integers(-3, 60),
    st.sampled_from([-(2**63), -50_000_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**400]),
    st.sampled_from([0.5, -1.0, 1e308, float("inf"), float("nan")]),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
_DTYPES = ("int64", "uint64", "float32", "int32", "uint32", "float16", "uint16")
_EXTREMES: dict[str, tuple[float, ...]] = {
    "i": (-(2**31), -50, -2, -1, 0, 49, 50, 51, 2**31 - 1),
    "u": (0, 1, 49, 50, 65535),
    "f": (-1, 0, 0.5, 1e30),
}


def changed_header(draw: Any, header: dict[str, Any]) -> dict[str, Any]:
    """A header with something else in it, at any depth."""
    header = json.loads(json.dumps(header))
    place = header
    while True:
        name = draw(st.sampled_from(sorted(place))) if place and draw(st.integers(0, 9)) else draw(st.text(max_size=4))
        if isinstance(place.get(name), dict) and draw(st.booleans()):
            place = place[name]
            continue
        if name in place and not draw(st.integers(0, 4)):
            del place[name]
        else:
            place[name] = draw(_JSON)
        return header


def changed_arrays(draw: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays one of which is gone, of another type or shape, or holds what it cannot."""
    name = draw(st.sampled_from(sorted(arrays)))
    array, arrays = np.array(arrays[name]), dict(arrays)
    way = draw(st.sampled_from(["gone", "type", "cut", "longer", "shape", "values", "values", "values", "other"]))
    if way == "gone":
        del arrays[name]
        return arrays
    if way == "type":
        with np.errstate(all="ignore"):
            array = array.astype(draw(st.sampled_from(_DTYPES)))
    elif way == "cut":
        array = array[: draw(st.integers(0, len(array)))]
    elif way == "longer":
        array = np.concatenate([array, array[: draw(st.integers(0, len(array)))]])
    elif way == "shape":
        array = draw(st.sampled_from([array.reshape(-1), array[None], array.reshape(-1, 1), array.reshape(-1)[:0]]))
    elif way == "other":
        array = np.array(arrays[draw(st.sampled_from(sorted(arrays)))])
    elif array.size:
        flat = array.reshape(-1)
        for _ in range(draw(st.integers(1, 4))):
            value: Any = draw(st.sampled_from([*_EXTREMES[array.dtype.kind]]))
            if array.dtype.kind == "f" and not draw(st.integers(0, 2)):
                value = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
            bits = np.array(value) if array.dtype.kind == "f" else np.array(value, np.int64)
            with np.errstate(over="ignore"):
                flat[draw(st.integers(0, flat.size - 1))] = bits.astype(array.dtype)
    arrays[name] = array
    return arrays


def changed(draw: Any, kind: FileKind, path: Path) -> None:
    """The file at `path` with other arrays or another header, and the checksum of these."""
    arrays, header = kind.read(path)
    if draw(st.booleans()):
        header = changed_header(draw, header)
    if draw(st.booleans()):
        arrays = changed_arrays(draw, arrays)
    kind.write(path, arrays, header)


def learned() -> Representative:
    """A small table that knows a text."""
    table = Representative(memory_mb=0.02, orders=(1, 2, 3), successors=4, vocab_size=VOCABULARY, fingerprint="f")
    table.learn_text(_TEXT)
    return table


def drafts_within_the_vocabulary(drafter: AdaptiveDrafter) -> None:
    """Draft, learn and draft again, as a model of this vocabulary would have it."""
    session = drafter.start([3, 8])
    for token in (5, 9, 3):
        tree = session.draft(12)
        assert all(0 <= node < VOCABULARY for node in tree.tokens.tolist())
        assert np.isfinite(tree.log_probs).all()
        ids = np.tile(np.array([[token, 1]], np.int32), (len(tree) + 1, 1))
        session.observe(Outcome([token], tree, ids, np.full(ids.shape, 0.4, np.float32)))


def contents(drafter: AdaptiveDrafter) -> list[Any]:
    """All that it knows."""
    tables = [drafter.representative, *drafter._tenants.tables.values()]
    return [[table.clock, table.holds_prompts, *(array.tobytes() for array in table.arrays)] for table in tables]


def state(draw: Any, folder: Path) -> None:
    """A state file, of tenants too; a load that fails leaves everything as it was."""
    drafter = AdaptiveDrafter(learned(), sequence_mb=0.02, tenant_mb=0.02, tenants_mb=0.05)
    drafts_within_the_vocabulary(drafter.sharing(tenant="a"))
    drafter.save(path := folder / "state")
    changed(draw, STATE, path)
    before = contents(drafter)
    try:
        drafter.load(path)
    except AdedError:
        assert contents(drafter) == before
        raise
    finally:
        drafts_within_the_vocabulary(drafter)
        drafts_within_the_vocabulary(drafter.sharing(tenant="a"))
        drafter.save(path)  # what was taken can be saved and taken again
        drafter.load(path)


def corpus(draw: Any, folder: Path) -> None:
    """A corpus, mapped, beside a table."""
    Corpus.write(learned(), path := folder / "corpus", {"model": "m", "sources": {}, "blocks": 2})
    changed(draw, CORPUS, path)
    opened = Corpus.open(path)
    opened.thaw()
    drafter = create_drafter("adaptive", memory_mb=0.05, sequence_mb=0.02, corpus=opened)
    drafter.bind(VOCABULARY, "f")
    drafts_within_the_vocabulary(drafter)


def trace(draw: Any, folder: Path) -> None:
    """A trace, replayed."""
    tops = np.tile(np.array([[5, 9]], np.int32), (4, 1)), np.full((4, 2), 0.4, np.float32)
    sequences = [TracedSequence(str(n), "all", _TEXT[:8], _TEXT[8:12], *tops) for n in range(2)]
    Trace(sequences, {"vocab_size": VOCABULARY, "fingerprint": "f"}).save(path := folder / "trace")
    changed(draw, TRACE, path)
    loaded = Trace.load(path)
    loaded.save(path)
    if loaded.tokens:
        replay(loaded, "prompt-lookup", lambda: create_drafter("prompt-lookup"), 4)


_LINES = st.one_of(
    _JSON.map(json.dumps),
    st.dictionaries(st.sampled_from(["turns", "prompt", "output", "category", "question_id"]), _JSON).map(json.dumps),
    st.text(max_size=20),
    st.sampled_from(['{"prompt": "' + "[" * 10 + '"}', '{"a":' * 100_000, '{"prompt": "\\ud800"}', "\ufeff{}", "{}\0"]),
)


def prompts(draw: Any, folder: Path) -> None:
    """A file of prompts."""
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    lines = "\n".join(draw(st.lists(_LINES, max_size=4)))
    (folder / "prompts").write_bytes(lines.encode(encoding, "surrogatepass"))
    for prompt in read_prompts(folder / "prompts"):
        "".join([prompt.name, prompt.category, *prompt.turns, prompt.output or ""]).encode()


def costs(draw: Any, folder: Path) -> None:
    """A file of step costs: what cannot be is measured again."""
    curve = CostCurve([1, 2, 4], [0.1, 0.12, 0.15])
    before, os.environ["ADED_CACHE"] = os.environ.get("ADED_CACHE"), str(folder)
    try:
        cost_files.kept_curve(type("Model", (), {})(), {"a": 1}, lambda: curve, on_disk=True)
        (file,) = (folder / "costs").iterdir()
        kept = changed_header(draw, json.loads(file.read_text()))
        file.write_text(json.dumps(kept))
        found = cost_files.kept_curve(type("Model", (), {})(), {"a": 1}, lambda: curve, on_disk=True)
        assert all(found(n) > 0 and np.isfinite(found(n)) for n in (1, 2, 3, 8))
        file.unlink()
    finally:
        os.environ.pop("ADED_CACHE")
        if before is not None:
            os.environ["ADED_CACHE"] = before


KINDS: dict[str, Callable[[Any, Path], None]] = {
    "state": state,
    "corpus": corpus,
    "trace": trace,
    "prompts": prompts,
    "costs": costs,
}


def check(kind: str, draw: Any) -> str | None:
    """One case of a kind of file: the error it was refused with, None if it could be used.

    Whatever else happens is a fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            KINDS[kind](draw, Path(folder))
            said = None
        except AdedError as error:
            said = str(error)
    assert said is None or said.isprintable(), said  # one line, and nothing that a terminal obeys
    return said
