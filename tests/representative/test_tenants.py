"""Tables of tenants: bounded together, saved in one file, under keys that do not give their names away."""

from __future__ import annotations

from pathlib import Path

import pytest

from aded.drafters.adaptive import AdaptiveDrafter
from aded.errors import SettingsError, StateFileError
from aded.representative import Representative
from aded.representative.storage import STATE
from aded.representative.tenants import tenant_key


def drafter(**options: float) -> AdaptiveDrafter:
    return AdaptiveDrafter(memory_mb=0.5, sequence_mb=0.1, **{"tenant_mb": 0.1, "tenants_mb": 0.35} | options)


def learn(of: AdaptiveDrafter, tenant: str, text: list[int]) -> None:
    of.sharing(tenant=tenant).representative.learn_text(text)


def drafted(of: AdaptiveDrafter, tenant: str | None, prompt: list[int]) -> list[int]:
    """What follows the prompt likeliest, unless it is the prompt's own."""
    tree = of.sharing(tenant=tenant).start(prompt).draft(1)
    return [token for token in tree.tokens.tolist() if token not in prompt]


def test_the_tenant_not_heard_of_for_longest_is_forgotten_for_a_new_one() -> None:
    one = drafter()
    for tenant in ("a", "b", "c", "a", "d"):
        learn(one, tenant, [1, 2, 3])
    assert list(one._tenants.tables) == [tenant_key(name) for name in ("c", "a", "d")]
    assert drafted(one, "a", [1, 2]) == [3]
    assert drafted(one, "b", [1, 2]) == []
    assert one.nbytes <= (0.5 + 0.1 + 0.35) * 2**20
    before = one.clock
    learn(one, "e", [1, 2, 3])
    assert one.clock > before  # what was forgotten still counts


def test_all_are_saved_together_and_their_names_are_not(tmp_path: Path) -> None:
    one, other = drafter(), drafter()
    one.representative.learn_text([1, 2, 9])
    learn(one, "sk-secret-key", [1, 2, 3])
    learn(one, "b", [1, 2, 4])
    one.save(tmp_path / "state")
    assert b"sk-secret-key" not in (tmp_path / "state").read_bytes()
    learn(other, "gone", [1, 2, 5])
    other.load(tmp_path / "state")
    found = [drafted(other, tenant, [1, 2]) for tenant in (None, "sk-secret-key", "b", "gone")]
    assert found == [[9], [3], [4], []]
    small = drafter(tenants_mb=0.1)
    small.load(tmp_path / "state")
    assert list(small._tenants.tables) == [tenant_key("b")]
    plain = Representative(memory_mb=0.5)
    plain.load(tmp_path / "state")  # one that knows no tenants reads the common table
    assert plain.used == one.representative.used


def test_a_file_with_one_damaged_tenant_changes_nothing(tmp_path: Path) -> None:
    one, other = drafter(), drafter()
    one.bind(50, "f")
    one.representative.learn_text([1, 2, 3])
    learn(one, "a", [1, 2, 40])
    one.save(path := tmp_path / "state")
    arrays, header = STATE.read(path)
    arrays[f"tenant.{tenant_key('a')}.successors"][0, 0] = 99
    STATE.write(path, arrays, header)
    other.bind(50, "f")
    learn(other, "a", [1, 2, 5])
    with pytest.raises(StateFileError, match="tokens outside the vocabulary"):
        other.load(path)
    assert drafted(other, "a", [1, 2]) == [5]
    assert drafted(other, None, [1, 2]) == []


@pytest.mark.parametrize("tenant", ["", 7, b"a"])
def test_a_tenant_has_a_name(tenant: object) -> None:
    from aded import sharing

    with pytest.raises(SettingsError, match="a tenant has a name"), sharing(tenant=tenant):  # type: ignore[arg-type]
        pass


def test_tables_larger_than_their_sum_are_refused() -> None:
    with pytest.raises(ValueError, match="tenants_mb"):
        drafter(tenant_mb=2.0)
