"""A controller by itself: heartbeats continue, a message that cannot be sent fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mqttkit.controller import LocalController, MemoryBus
from mqttkit.errors import StoreFailed
from tests.support.controllers import broker_at, eventually, settings_of


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test started."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def lonely(tmp_path: Path, stack: ExitStack) -> LocalController:
    """A controller alone on a bus, with a heartbeat at every change only."""
    settings = settings_of(tmp_path, "lc-1", transports=("memory",), heartbeat_interval=60.0)
    controller = LocalController(settings, broker_at(1), bus=MemoryBus())
    stack.callback(controller.disconnect_mqtt, flush=0)
    return controller


def test_an_end_that_comes_between_two_beats_is_not_missed(
    lonely: LocalController, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the threads interleave: the heartbeat does not sleep through it."""
    clear = lonely._heartbeats.due.clear

    def end_meanwhile() -> None:
        lonely._heartbeats.stopping.set()
        lonely._heartbeats.due.set()
        clear()

    monkeypatch.setattr(lonely._heartbeats.due, "clear", end_meanwhile)
    lonely.connect_mqtt(0)
    lonely._heartbeats.thread.join(60)
    assert not lonely._heartbeats.thread.is_alive()


@pytest.mark.parametrize("mistake", [OSError("stale file handle"), StoreFailed("disk full"), KeyError("x")])
def test_a_heartbeat_that_fails_is_said_and_the_next_one_is_sent(
    lonely: LocalController, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mistake: Exception
) -> None:
    """Whatever it was."""
    sent: list[str] = []

    def fail_once(state: str) -> object:
        sent.append(state)
        if len(sent) == 1:
            raise mistake
        return envelope(state)

    envelope = lonely._heartbeat
    monkeypatch.setattr(lonely, "_heartbeat", fail_once)
    lonely.connect_mqtt(0)
    eventually(lambda: "cannot send a heartbeat" in caplog.text)
    lonely._heartbeats.due.set()
    eventually(lambda: len(sent) >= 2)
    assert lonely._heartbeats.thread.is_alive()


def test_a_store_that_fails_leaves_the_transports_threads_alone(
    lonely: LocalController, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They call `_wake` when a connection comes; what it cannot read is said."""

    class There:
        available = True

    lonely.mqtt = There()  # type: ignore[assignment]  # all that is looked at
    lonely._store.close()
    lonely._wake()
    assert "may be refused" in caplog.text
    assert lonely._was_connected


def test_a_message_that_has_no_json_form_fails_alone(lonely: LocalController) -> None:
    """Its promise says so; the queue is empty again and the next message leaves."""
    lonely.connect_mqtt(0)
    lost = lonely.publish_event("odd", {"set": {1, 2}})
    assert lost.wait(60)
    assert not lost.ok
    other = lonely.publish_event("even", {"list": [1, 2]})
    eventually(lambda: lonely._sender.sent["memory"] + lonely.unsent == 1)
    assert not other.done
    assert lonely.unsent == 1  # nobody listens on the bus; the odd one is gone
