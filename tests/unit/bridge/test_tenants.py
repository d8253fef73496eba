"""Registries of tenants: YAML file, SQLite, cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.bridge.tenants import open_registry
from mqttkit.bridge.tenants.answer_cache import AnswerCache
from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.bridge.tenants.yaml_file import YamlRegistry
from mqttkit.errors import ConfigError, UsageError

A, B, C = (f"6f1d7c1e-0000-4000-8000-00000000000{n}" for n in "abc")


def test_yaml_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A list or a mapping; a change counts within a second, a broken file leaves the old tenants in force."""
    now = [0.0]
    path = tmp_path / "tenants.yaml"
    path.write_text(f"# ours\n- {A}\n- {B.upper()}\n")
    registry = YamlRegistry(path, clock=lambda: now[0])
    assert registry.known({A, B, C}) == {A, B}
    path.write_text(f"{C}: Third\n")
    assert registry.known({A, B, C}) == {A, B}
    now[0] = 2
    assert registry.known({A, B, C}) == {C}
    path.write_text("not: [closed")
    now[0] = 4
    assert registry.known({A, B, C}) == {C}
    path.unlink()
    now[0] = 6
    assert registry.known({A, B, C}) == {C}
    path.write_text(f"- {A}\n")
    now[0] = 8
    assert registry.known({A, B, C}) == {A}


@pytest.mark.parametrize("start", ["", f"- {B}  # two\n", f"# head\n{B}: Two\n"])
def test_yaml_is_edited_line_by_line(tmp_path: Path, start: str) -> None:
    """Adding and removing keeps comments and all other lines."""
    path = tmp_path / "tenants.yaml"
    path.write_text(start)
    registry = open_registry(str(path))
    assert registry.add(A)
    assert not registry.add(A)
    assert A in registry.all()
    assert registry.remove(A.upper())
    assert not registry.remove(A)
    assert path.read_text() == start


def test_yaml_too_free_to_edit_is_left_alone(tmp_path: Path) -> None:
    """A flow-style file is not touched; the error says to edit it by hand."""
    path = tmp_path / "tenants.yaml"
    path.write_text(f"[{A}, {B}]\n")
    registry = open_registry(str(path))
    with pytest.raises(ConfigError, match="by hand"):
        registry.remove(A)
    assert path.read_text() == f"[{A}, {B}]\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("text", "what"), [("x: [", "is not YAML"), ("5", "expected a list"), ("- x", "not a UUID")])
def test_yaml_that_is_no_registry_is_one_clear_error(tmp_path: Path, text: str, what: str) -> None:
    """At the start a file that cannot be used ends the command, naming file and cause."""
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        open_registry(str(path))
    assert str(path) in str(caught.value)


def test_sqlite_registry(tmp_path: Path) -> None:
    """Tenants in a table, seen through the bounded cache."""
    registry = open_registry(f"sqlite:{tmp_path / 'tenants.db'}")
    assert registry.add(A, "First")
    assert not registry.add(A)
    assert registry.known({A, B}) == {A}
    assert registry.all() == {A: "First"}
    assert registry.remove(A)
    assert not registry.remove(A)
    registry.close()


def test_answers_are_remembered_for_a_time_and_in_number() -> None:
    """The registry is asked once within the time; unknown tenants cannot fill the memory."""
    now = [0.0]
    asked: list[str] = []

    def ask(tenants: list[str]) -> set[str]:
        asked.extend(tenants)
        return set(tenants) & {A}

    cache = AnswerCache(lambda: now[0], entries=2)
    assert cache.known({A, B}, ask) == {A}
    assert cache.known({A, B}, ask) == {A}
    assert sorted(asked) == [A, B]
    now[0] = 3  # the unknown one is asked for again, the known one is not
    assert cache.known({A, B}, ask) == {A}
    assert sorted(asked) == [A, B, B]
    for number in range(50):
        cache.known({str(number)}, ask)
    assert len(cache) == 2


@pytest.mark.parametrize("text", ["", "x", "6f1d7c1e00004000800000000000000a"])
def test_tenant_must_be_a_uuid(text: str) -> None:
    """Anything but 8-4-4-4-12 hexadecimal digits is an error of usage."""
    with pytest.raises(UsageError):
        check_tenant(text)
