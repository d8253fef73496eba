"""Registries, identities, watches, notifier, metrics page: the bridge's smaller parts."""

from __future__ import annotations

import hashlib
import socket
import stat
from pathlib import Path

import pytest

from mqttkit.bridge.identity import Identity
from mqttkit.bridge.metric import Reason
from mqttkit.bridge.observe.health import Sample, render_metrics
from mqttkit.bridge.observe.resource_watch import ClockWatch, MemoryWatch
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import SinkOptions, dead_letter
from mqttkit.bridge.tenants import open_registry
from mqttkit.bridge.tenants.answer_cache import AnswerCache
from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.bridge.tenants.yaml_file import YamlRegistry
from mqttkit.errors import BridgeError, ConfigError, UsageError
from mqttkit.messages import Message
from mqttkit.settings import MemorySettings

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


@pytest.mark.parametrize(("text", "what"), [("x: [", "is no YAML"), ("5", "expected a list"), ("- x", "no UUID")])
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


def test_identity_is_stable_private_and_exclusive(tmp_path: Path) -> None:
    """Started again it is the same; a second one at the same time is another; other purposes have their own."""
    with Identity("broker", "filter", directory=tmp_path) as first:
        with Identity("broker", "filter", directory=tmp_path) as second:
            assert first.client_id != second.client_id
        with Identity("broker", "other", directory=tmp_path) as third:
            assert third.client_id not in (first.client_id, second.client_id)
        remembered = first.client_id
    with Identity("broker", "filter", directory=tmp_path) as again:
        assert again.client_id == remembered
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_identity_that_cannot_be_kept_says_where(tmp_path: Path) -> None:
    """Without a place to write the bridge does not start: a session under a passing name would be lost."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeError, match="file"), Identity("x", directory=tmp_path / "file"):
        pass


def test_watchdog_is_fed_by_progress_only(tmp_path: Path) -> None:
    """READY once; WATCHDOG only when the progress changed since the last beat."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(address)})
        notifier.ready("up")
        notifier.ready("up")
        for progress in (1, 1, 2):
            notifier.beat(progress)
        notifier.stopping()
        got = [manager.recv(1_000) for _ in range(4)]
    assert got == [b"READY=1\nSTATUS=up", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_notifier_without_a_manager_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a missing nor a dead socket is an error, or worth more than a line for debugging."""
    for environment in ({}, {"NOTIFY_SOCKET": "@nobody-listens"}):
        notifier = Notifier(environment)
        notifier.status("fine")
        notifier.ready("fine")
        notifier.stopping()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_memory_is_warned_of_once_and_limited(caplog: pytest.LogCaptureFixture) -> None:
    """One line when the limit is passed, another only after it had fallen below."""
    sizes = iter([50, 150, 160, 90, 150, 400])
    watch = MemoryWatch(MemorySettings(warn=100, max=400), lambda: next(sizes))
    assert [watch.too_much() for _ in range(6)] == [False, False, False, False, False, True]
    assert caplog.text.count("memory.warn") == 2


def test_clock_that_jumps_and_skew_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """An hour's jump either way is one line; so is a skew beyond the limit, with its direction."""
    wall, steady = [1_000_000.0], [0.0]
    watch = ClockWatch(300, lambda: wall[0], lambda: steady[0])
    for jump in (0, 3_600, 0, -3_600):
        steady[0] += 5
        wall[0] += 5 + jump
        watch.check(0)
    assert caplog.text.count("jumped by +3600 s") == caplog.text.count("jumped by -3600 s") == 1
    for skew in (3_600_000, 3_600_000, 0, -3_600_000):
        watch.check(skew)
    assert caplog.text.count("3600 s behind") == caplog.text.count("3600 s ahead of") == 1


def test_dead_letter_keeps_size_and_digest_of_the_whole() -> None:
    """A long payload is cut, its size and SHA-256 are the whole one's; any topic can be written down."""
    letter = dead_letter(Message("x\udcff\0" + "y" * 2_000, b"z" * 100_000), Reason.JSON_SYNTAX, "d\0\ud800", 5)
    assert letter.topic.startswith("x\\xff\\x00y")
    assert len(letter.topic) < 1_100
    assert (letter.size, len(letter.body), letter.whole) == (100_000, 65_536, False)
    assert letter.sha256 == hashlib.sha256(b"z" * 100_000).hexdigest()
    assert letter.detail.isprintable()


@pytest.mark.parametrize("address", ["", "sqlite", "sqlite:", "ftp://x", "metrics.db"])
def test_sink_address_that_is_none_lists_the_kinds(address: str) -> None:
    """One error of usage, with the kinds that there are."""
    with pytest.raises(UsageError, match="sqlite:PATH"):
        open_sink(address, SinkOptions())


def test_metrics_page_has_counters_gauges_and_labels() -> None:
    """Samples are rendered in Prometheus' text format, one family a name."""
    text, kind = render_metrics(
        [
            Sample("stored_metrics", "Stored", "counter", 5),
            Sample("dead_letters", "Dead", "counter", 1, ("reason", "a")),
            Sample("dead_letters", "Dead", "counter", 2, ("reason", "b")),
            Sample("ready", "Ready", "gauge", 1),
        ]
    )
    lines = text.decode().splitlines()
    assert "mqttkit_bridge_stored_metrics_total 5.0" in lines
    assert 'mqttkit_bridge_dead_letters_total{reason="b"} 2.0' in lines
    assert "mqttkit_bridge_ready 1.0" in lines
    assert kind.startswith("text/plain")
