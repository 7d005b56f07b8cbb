"""Several state files joined into one, by the library and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aded.cli.commands import app
from aded.drafters.adaptive import AdaptiveDrafter
from aded.errors import StateFileError
from aded.representative import Representative
from aded.representative.states import merge_states, state_facts

KNOWN = {"vocab_size": 100, "fingerprint": "t"}


def learned(path: Path, times: int, *text: int, **options: object) -> Path:
    table = Representative(memory_mb=0.5, **{**KNOWN, **options})  # type: ignore[arg-type]
    for _ in range(times):
        table.learn_text(text)
    table.save(path)
    return path


def likely(path: Path, *prompt: int) -> dict[int, float]:
    """Tokens that may follow a prompt, by what a drafter says that loads the file, and how likely."""
    drafter = AdaptiveDrafter(memory_mb=0.5, sequence_mb=0.1)
    drafter.bind(100, "t")
    drafter.load(path)
    tree = drafter.start(list(prompt)).draft(8)
    first = tree.parents < 0
    return dict(zip(tree.tokens[first].tolist(), np.exp(tree.log_probs[first]).tolist(), strict=True))


def test_each_context_is_weighed_by_how_often_it_was_seen(tmp_path: Path) -> None:
    often, once = learned(tmp_path / "a", 9, 1, 2, 3), learned(tmp_path / "b", 1, 1, 2, 4)
    only = learned(tmp_path / "c", 2, 5, 6, 7)
    merge_states([often, once, only], tmp_path / "out")
    found = likely(tmp_path / "out", 1, 2)
    assert found[3] > 2 * found[4] > 0
    assert 7 in likely(tmp_path / "out", 5, 6)
    merge_states([often, only], often)  # onto one of them
    assert {3, 7} <= set(likely(often, 1, 2)) | set(likely(often, 5, 6))


def test_tenants_stay_apart_and_are_joined_by_name(tmp_path: Path) -> None:
    for name, tenants in (("a", {"x": [1, 2, 3]}), ("b", {"x": [4, 5, 6], "y": [1, 2, 8]})):
        drafter = AdaptiveDrafter(memory_mb=0.5, sequence_mb=0.1, tenant_mb=0.1, tenants_mb=0.5)
        drafter.bind(100, "t")
        for tenant, text in tenants.items():
            drafter.sharing(tenant=tenant).representative.learn_text(text)  # type: ignore[attr-defined]
        drafter.save(tmp_path / name)
    merge_states([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    joined = AdaptiveDrafter(memory_mb=0.5, sequence_mb=0.1, tenant_mb=0.1, tenants_mb=0.5)
    joined.bind(100, "t")
    joined.load(tmp_path / "out")

    def drafted(tenant: str | None, *prompt: int) -> list[int]:
        ids: list[int] = joined.sharing(tenant=tenant).start(list(prompt)).draft(1).tokens.tolist()
        return [token for token in ids if token not in prompt]

    assert [drafted("x", 1, 2), drafted("x", 4, 5), drafted("y", 1, 2)] == [[3], [6], [8]]
    assert drafted("y", 4, 5) == drafted(None, 1, 2) == []
    assert state_facts(tmp_path / "out")["tenants"] == 2


def test_files_of_two_models_damaged_ones_and_none_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one, other = learned(tmp_path / "a", 1, 1, 2, 3), learned(tmp_path / "b", 1, 1, 2, 3, fingerprint="u")
    damaged = tmp_path / "c"
    damaged.write_bytes(one.read_bytes()[:-40])
    for paths, said in (
        ([one, other], "another model"),
        ([one, damaged], "damaged"),
        ([one, tmp_path / "d"], "no state"),
    ):
        with pytest.raises(StateFileError, match=said):
            merge_states(paths, tmp_path / "out")
    with pytest.raises(StateFileError, match="no state file to join"):
        merge_states([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_joins_and_says_what_a_file_holds(tmp_path: Path) -> None:
    files = [str(learned(tmp_path / name, 3, *text)) for name, text in (("a", (1, 2, 3)), ("b", (4, 5, 6)))]
    out = str(tmp_path / "out")
    ran = CliRunner().invoke(app, ["state", "merge", *files, "--out", out], catch_exceptions=False)
    assert ran.exit_code == 0
    facts = json.loads(CliRunner().invoke(app, ["state", "info", out, "--json"]).stdout)
    assert (facts["vocab_size"], facts["fingerprint"], facts["tenants"]) == (100, "t", 0)
    assert facts["contexts"] > state_facts(files[0])["contexts"]
    shown = CliRunner().invoke(app, ["state", "info", out]).stdout
    assert "times learned" in shown
    assert "file mb" in shown
