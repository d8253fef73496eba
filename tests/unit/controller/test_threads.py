"""No thread of a controller ends unnoticed, and none misses what another tells it."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from waitress import wasyncore

from mqttkit.client import ConnectionState
from mqttkit.controller import LocalController, MemoryBus
from mqttkit.controller.security.keys import KeyFile
from mqttkit.controller.store import Store
from mqttkit.controller.transports.http import HttpTransport
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.controller.transports.types import Delivery
from mqttkit.errors import BrokerUnreachable, StoreFailed, SubscriptionDenied, UsageError
from mqttkit.messages import Subscription
from tests.support.controllers import broker_at, eventually, make_keys, settings_of


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


# --- heartbeats ---------------------------------------------------------------------------------------------


def test_an_end_that_comes_between_two_beats_is_not_missed(
    lonely: LocalController, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the threads interleave: the heartbeat does not sleep through it."""
    clear = lonely._heart.clear

    def end_meanwhile() -> None:
        lonely._stop.set()
        lonely._heart.set()
        clear()

    monkeypatch.setattr(lonely._heart, "clear", end_meanwhile)
    lonely.connect_mqtt(0)
    lonely._pulse.join(20)
    assert not lonely._pulse.is_alive()


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
    eventually(lambda: "no heartbeat" in caplog.text)
    lonely._wake()
    eventually(lambda: len(sent) >= 2)
    assert lonely._pulse.is_alive()


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
    assert lost.wait(20)
    assert not lost.ok
    other = lonely.publish_event("even", {"list": [1, 2]})
    eventually(lambda: lonely._sender.sent["memory"] + lonely.unsent == 1)
    assert not other.done
    assert lonely.unsent == 1  # nobody listens on the bus; the odd one is gone


# --- the store ----------------------------------------------------------------------------------------------


def test_threads_share_a_store_and_nothing_is_cut_short() -> None:
    """Reads, notes, commits and roll-backs at once; each fails by StoreFailed or not at all."""
    store, mistakes, end = Store(), list[BaseException](), time.monotonic() + 0.5

    def work(step: Callable[[], object]) -> None:
        try:
            while time.monotonic() < end:
                step()
        except BaseException as error:  # told below
            mistakes.append(error)

    steps = (store.count, store.commit, store.roll_back, lambda: store.policy("a"), lambda: store.note_moment("x", 1.0))
    threads = [threading.Thread(target=work, args=(step,)) for step in (*steps, lambda: store.next_number("n"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == []
    store.close()
    with pytest.raises(StoreFailed, match="closed database"):
        store.commit()


def test_keys_that_cannot_be_read_any_more_stay_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that is gone or forbidden is said, and stops nobody; at the start it is an error."""
    home = tmp_path / "home"
    home.mkdir()
    keys = KeyFile(make_keys(home))
    assert keys.refresh().signer().kid == "k1"
    home.rename(tmp_path / "away")
    home.write_text("a file where the directory was")
    assert keys.refresh().signer().kid == "k1"
    assert "going on with the keys as they were" in caplog.text
    with pytest.raises(UsageError, match="cannot be read"):
        _ = KeyFile(home / "keys.json").ring


# --- MQTT ---------------------------------------------------------------------------------------------------


class Answers:
    """The client of a transport, which answers SUBSCRIBE as it is told."""

    def __init__(self, *answers: Exception | None) -> None:
        self.connected = False
        self.asked: list[str] = []
        self._answers = list(answers)

    def subscribe(self, subscription: Subscription) -> None:
        """Answer."""
        self.asked.append(subscription.topic_filter)
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer

    def close(self) -> None:
        """Do nothing."""


def transport_with(client: Any) -> MqttTransport:
    """A transport with that client."""
    transport = MqttTransport(broker_at(1), "rc-1")
    transport.client.close()
    transport.client = client
    return transport


def test_a_connection_that_comes_up_while_a_filter_is_added_finds_it() -> None:
    """Seen as away when it was looked at, told of before the call returned: subscribed all the same."""

    class JustNow(Answers):
        @property
        def connected(self) -> bool:  # type: ignore[override]
            """Come up right after it was looked at."""
            if not self.up:
                self.up = True
                transport._changed(ConnectionState.CONNECTED, "")
                return False
            return True

        @connected.setter
        def connected(self, value: bool) -> None:
            self.up = value

    client = JustNow()
    transport = transport_with(client)
    transport.subscribe("a/#")
    eventually(lambda: not transport._open_filters)
    transport.close()
    assert client.asked == ["a/#"]


def test_a_subscription_without_an_answer_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection was lost, or the broker slow: that is no reason for the controller to end."""
    monkeypatch.setattr("mqttkit.controller.transports.mqtt.AGAIN_SECONDS", 0.01)
    lost = BrokerUnreachable("broker:1883", "mqtt", "no SUBACK came")
    client = Answers(lost, lost, None)
    client.connected = True
    transport = transport_with(client)
    transport.subscribe("a/#")
    eventually(lambda: not transport._open_filters)
    assert client.asked == ["a/#"] * 3
    transport.close()


def test_a_denied_subscription_is_forgotten_or_waits_for_the_next_connection() -> None:
    """At once it raises; in the background it is said, and tried once a connection."""
    client = Answers(*[SubscriptionDenied("a/#", "not authorized", code=135)] * 3)
    client.connected = True
    transport = transport_with(client)
    with pytest.raises(SubscriptionDenied):
        transport.subscribe("a/#")
    assert not transport._open_filters
    client.connected = False
    transport.subscribe("b/#")
    client.connected = True
    for tries in (1, 2):
        transport._changed(ConnectionState.CONNECTED, "")
        eventually(lambda tries=tries: client.asked == ["a/#"] + ["b/#"] * tries and transport._subscriber is None)
    transport.close()


# --- HTTP ---------------------------------------------------------------------------------------------------


def answer_with(body: bytes) -> bytes:
    """Return a good answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


def test_a_hub_that_answers_nonsense_does_not_end_the_polling(stack: ExitStack) -> None:
    """Nor does it count as a hub for a moment; the first good answer does."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(20)
    received: list[Delivery] = []
    woken: list[bool] = []
    client = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", poll_seconds=0.01)
    stack.callback(client.close)
    client.start(received.extend, lambda: woken.append(client.available))
    data = base64.b64encode(b"x").decode()
    odd: list[Any] = [
        [], {"messages": [{"topic": 5, "data": data}], "cursor": "c"},
        {"messages": [{"topic": "\ud800", "data": data}], "cursor": "c"}, {"messages": {"a": 1}, "cursor": "c"},
    ]  # fmt: skip
    bodies = [json.dumps(one).encode() for one in odd] + [b"[" * 100_000, b"\xff"]
    good = json.dumps({"messages": [{"topic": "a", "data": data}], "cursor": "c"}).encode()
    for body in (*bodies, good):
        assert woken == []
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(answer_with(body))
    eventually(lambda: [(one.topic, one.data) for one in received] == [("a", b"x")])
    assert woken[0] is True


def test_what_is_not_posted_at_the_end_fails_at_once(stack: ExitStack) -> None:
    """A queue full of messages for a hub that is gone does not hold the end up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    client = HttpTransport(f"http://127.0.0.1:{address[1]}", poll_seconds=0.01)
    client.start(lambda _: None, lambda: None)
    tickets = [client.send("a", b"x", qos=1, retain=False) for _ in range(500)]
    client.close()
    assert all(ticket.done and not ticket.ok for ticket in tickets)
    assert client.send("a", b"x", qos=1, retain=False).done


def test_a_hub_that_dies_is_not_available_any_more(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said in the log, and the sender is told to look for another way."""
    hub, woken = HttpHub(), list[bool]()
    loop, broken = wasyncore.loop, threading.Event()

    def once(**options: Any) -> None:
        if broken.is_set():
            raise ValueError("filedescriptor out of range in select()")
        loop(**{**options, "timeout": 0.01})

    monkeypatch.setattr(wasyncore, "loop", once)
    stack.callback(hub.close)
    hub.start(lambda _: None, lambda: woken.append(hub.available))
    broken.set()
    eventually(lambda: woken == [True, False])
    assert "the HTTP server on" in caplog.text
    assert not hub.send("a", b"x", qos=1, retain=False).ok
    assert hub._thread is not None
    hub._thread.join(20)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), 5)
