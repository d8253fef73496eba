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


class Watched:
    """A registry of a file that the test changes, with a clock that the test moves."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)
        self.now = 0.0
        self.registry = YamlRegistry(path, clock=lambda: self.now)

    def after(self, text: str | None) -> set[str]:
        """Change the file, and return the tenants that are known once it was read again."""
        self.path.unlink() if text is None else self.path.write_text(text)
        self.now += 2
        self.registry.known(set())
        self.registry.close()
        return self.registry.known({A, B, C})


def test_yaml_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A list or a mapping; a change counts within a second. A file that is missing leaves the old tenants in force."""
    watched = Watched(tmp_path / "tenants.yaml", f"# ours\n- {A}\n- {B.upper()}\n")
    assert watched.registry.known({A, B, C}) == {A, B}
    watched.path.write_text(f"{C}: Third\n")
    assert watched.registry.known({A, B, C}) == {A, B}
    assert watched.after(f"{C}: Third\n") == {C}
    assert watched.registry.all() == {C: "Third"}
    assert watched.after(None) == {C}
    assert watched.after(f"- {A}\n") == {A}
    assert watched.after("[]\n") == set()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"- {A}\n- 2024-13-45\n", "tenants.yaml:2: tenant '2024-13-45' is not a UUID"),
        (f"# many\n- {A}\n- {'[' * 3_000}\n", "tenants.yaml:3: expected a list"),
        ("\n" + "[" * 3_000, "tenants.yaml:2: expected a list"),
        (f"{A}: {{x: 1}}\n", "tenants.yaml:1: expected a list"),
        (f"{A}: x\n{B}: [closed", "tenants.yaml:2: expected a list"),
        (f"- {A}\n- *unknown\n", "tenants.yaml:2: expected a list"),
        (f"- {A}\n---\n- {B}\n", "tenants.yaml:3: expected a list"),
        (f"{A}: 'x\n", "tenants.yaml:2: is not YAML"),
        ("", "tenants.yaml is empty"),
        ("# only a comment\n", "tenants.yaml is empty"),
    ],
)
def test_mistake_in_the_file_leaves_the_old_tenants_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, where: str
) -> None:
    """Row 29 of the fault table: a warning names the line, and nobody is locked out."""
    watched = Watched(tmp_path / "tenants.yaml", f"- {B}\n")
    assert watched.after(text) == {B}
    assert where in caplog.text
    assert "the earlier tenants stay known" in caplog.text


def test_large_file_does_not_delay_the_bridge(tmp_path: Path) -> None:
    """`known` answers with the old tenants while a changed file is read."""
    watched = Watched(tmp_path / "tenants.yaml", f"- {A}\n")
    lines = [f"- 6f1d7c1e-0000-4000-8000-{number:012d}\n" for number in range(20_000)]
    watched.path.write_text("".join(lines))
    watched.now += 2
    assert watched.registry.known({A}) == {A}
    watched.registry.close()
    assert watched.registry.known({A}) == set()
    assert len(watched.registry.all()) == 20_000


@pytest.mark.parametrize("start", ["", f"- {B}  # two\n", f"# head\n{B}: Two\n"])
def test_yaml_is_edited_line_by_line(tmp_path: Path, start: str) -> None:
    """Adding and removing keeps comments and all other lines. Without a tenant the file says so: []."""
    path = tmp_path / "tenants.yaml"
    path.write_text(start)
    registry = open_registry(str(path))
    assert registry.add(A)
    assert not registry.add(A)
    assert A in registry.all()
    assert registry.remove(A.upper())
    assert not registry.remove(A)
    assert path.read_text() == (start if registry.all() else start + "[]\n")
    assert registry.add(C)
    assert set(open_registry(str(path)).all()) == {*registry.all()}


def test_yaml_too_free_to_edit_is_left_alone(tmp_path: Path) -> None:
    """A flow-style file is not touched; the error says to edit it by hand."""
    path = tmp_path / "tenants.yaml"
    path.write_text(f"[{A}, {B}]\n")
    registry = open_registry(str(path))
    with pytest.raises(ConfigError, match="by hand"):
        registry.remove(A)
    assert path.read_text() == f"[{A}, {B}]\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("text", "what"), [("'x", "is not YAML"), ("5", "expected a list"), ("- x", "not a UUID")])
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
