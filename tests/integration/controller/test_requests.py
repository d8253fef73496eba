"""Requests from one controller to another: answered, expiring, authorised, carried out at most once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mqttkit.controller import (
    ControllerRequest,
    Envelope,
    GlobalController,
    LocalController,
    MemoryBus,
    RegionalController,
    RequestRefused,
)
from mqttkit.controller.controller import Controller
from mqttkit.controller.security.keys import KeyFile, KeyRing, generate
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.controller.transports.types import ReceivedMessage
from mqttkit.errors import RequestFailed, UsageError
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, eventually, settings_of

Kind = TypeVar("Kind", bound=Controller)


class Offices:
    """Controllers under one topic, each with its own key."""

    def __init__(self, directory: Path, port: int, base: str, stack: ExitStack) -> None:
        self.directory, self.mqtt, self.base, self.stack = directory, broker_at(port), base, stack
        ring = KeyRing()
        for kid, role, region in (("lc-1", "local", "zone-A"), ("lc-2", "local", "zone-B")):
            ring = ring.add(generate(kid, owner=kid, role=role, region=region)).activate(kid)
        for kid, role, region in (("rc-1", "regional", "zone-A"), ("gc-1", "global", None)):
            ring = ring.add(generate(kid, owner=kid, role=role, region=region)).activate(kid)
        KeyFile(directory / "keys.json").save(ring)

    def start(self, kind: type[Kind], name: str, **changes: Any) -> Kind:
        """Connect a controller."""
        options = {"base": self.base, "key_file": str(self.directory / "keys.json"), "keep_session": False, **changes}
        controller = kind(settings_of(self.directory, name, **options), self.mqtt)
        self.stack.callback(controller.disconnect_mqtt, flush=0)
        assert controller.connect_mqtt(30)
        return controller


@pytest.fixture
def offices(tmp_path: Path, broker: Mosquitto, topic: str) -> Iterator[Offices]:
    """On the test's broker."""
    with ExitStack() as stack:
        yield Offices(tmp_path, broker.port, topic, stack)


def test_a_handler_answers_a_request(offices: Offices) -> None:
    """The handler knows who asks, and in which role; its return value is the answer."""
    local = offices.start(LocalController, "lc-1")
    asked: list[ControllerRequest] = []

    def restart(request: ControllerRequest) -> dict[str, Any]:
        asked.append(request)
        return {"restarted": request.payload["port"]}

    local.answer_requests("acme.restart", restart)
    regional = offices.start(RegionalController, "rc-1")
    assert regional.request("lc-1", "acme.restart", {"port": 7}, timeout=60) == {"restarted": 7}
    assert [(one.sender_id, one.role) for one in asked] == [("rc-1", "regional")]
    assert regional.request("lc-1", "ping", timeout=60) == {"controller": "lc-1", "role": "local"}
    assert local.status()["requests"] == {"answered": 2}


def test_only_the_roles_and_regions_that_a_handler_allows_are_answered(offices: Offices) -> None:
    """A local controller may not ask what only a global one may; a key of another region never."""
    regional = offices.start(RegionalController, "rc-1")
    regional.answer_requests("acme.close", lambda _request: {"closed": True}, roles=("global",))
    high = offices.start(GlobalController, "gc-1")
    assert high.request("rc-1", "acme.close", timeout=60) == {"closed": True}
    near, far = offices.start(LocalController, "lc-1"), offices.start(LocalController, "lc-2", region="zone-B")
    for local, type_ in ((near, "acme.close"), (far, "acme.close"), (far, "ping"), (near, "policy.set")):
        with pytest.raises(RequestRefused, match="may not request") as caught:
            local.request("rc-1", type_, {"rules": {}}, timeout=60)
        assert caught.value.reason == "not_allowed"
    assert regional.policy("zone-A") is None


def test_what_a_handler_raises_is_the_answer(offices: Offices) -> None:
    """The request is not tried again."""
    local = offices.start(LocalController, "lc-1")
    calls: list[int] = []

    def fail(_request: ControllerRequest) -> None:
        calls.append(1)
        raise KeyError("no such port")

    local.answer_requests("acme.fail", fail)
    regional = offices.start(RegionalController, "rc-1")
    with pytest.raises(RequestRefused, match=r"lc-1 refused 'acme\.fail': KeyError: 'no such port'"):
        regional.request("lc-1", "acme.fail", timeout=60)
    with pytest.raises(RequestRefused, match=r"no handler for requests of type 'acme\.other'"):
        regional.request("lc-1", "acme.other", timeout=60)
    assert calls == [1]


def test_a_controller_that_is_absent_or_offline_is_an_error(offices: Offices) -> None:
    """The message says which."""
    regional = offices.start(RegionalController, "rc-1")
    with pytest.raises(RequestFailed, match=r"no heartbeat of lc-1 arrived within 0\.2 s"):
        regional.request("lc-1", "ping", timeout=0.2)
    offices.start(LocalController, "lc-1").disconnect_mqtt()
    with pytest.raises(RequestFailed, match="lc-1 is offline"):
        regional.request("lc-1", "ping", timeout=60)


def test_a_request_is_not_carried_out_after_its_deadline(offices: Offices) -> None:
    """It waits behind a slow one, and its time passes."""
    local = offices.start(LocalController, "lc-1")
    free, calls = threading.Event(), list[str]()

    def slow(_request: ControllerRequest) -> None:
        calls.append("slow")
        free.wait(60)

    local.answer_requests("acme.slow", slow)
    local.answer_requests("acme.late", lambda _request: calls.append("late"))
    regional = offices.start(RegionalController, "rc-1")
    first = threading.Thread(target=regional.request, args=("lc-1", "acme.slow"), kwargs={"timeout": 60})
    first.start()
    eventually(lambda: calls)
    with pytest.raises(RequestFailed, match=r"lc-1 did not answer 'acme\.late' within 3 s; mqtt had taken"):
        regional.request("lc-1", "acme.late", timeout=3)
    free.set()
    first.join(60)
    eventually(lambda: local.status()["requests"].get("expired") == 1)
    assert calls == ["slow"]


def test_a_request_is_not_carried_out_after_a_reconnect(offices: Offices) -> None:
    """A broker that kept it delivers it to the next connection; the requester may ask again."""
    local = offices.start(LocalController, "lc-1")
    calls: list[str] = []
    local.answer_requests("acme.act", lambda _request: calls.append("act"))
    regional = offices.start(RegionalController, "rc-1")
    kept: list[ReceivedMessage] = []
    take = local._receiver.take
    local._receiver.take = kept.extend  # type: ignore[method-assign]  # as a broker that delivers later
    local._held._receive = local._receiver.take
    while not kept:
        with pytest.raises(RequestFailed):
            regional.request("lc-1", "acme.act", timeout=1)
    assert local.mqtt is not None
    before = local.mqtt.connection
    local.mqtt.renew_will()
    eventually(lambda: local.mqtt is not None and local.mqtt.connection > before)
    local._receiver.take = take  # type: ignore[method-assign]
    local._held._receive = take
    take(list(kept))
    asked = {one.data for one in kept if "/requests/" in one.topic}
    eventually(lambda: sum(local.status()["requests"].values()) == len(asked))
    assert regional.request("lc-1", "acme.act", timeout=60) == {}
    assert calls == ["act"]


def test_a_request_waits_for_an_addressee_that_is_about_to_subscribe(offices: Offices) -> None:
    """After a reconnect with a clean session, its heartbeat may be there before its subscription."""
    local = offices.start(LocalController, "lc-1")
    local.answer_requests("acme.act", lambda _request: {"done": True})
    regional = offices.start(RegionalController, "rc-1")
    assert regional.request("lc-1", "acme.act", timeout=60) == {"done": True}
    assert local.mqtt is not None
    requests = local.topics.requests("lc-1")
    local.mqtt.client.unsubscribe(requests)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(regional.request("lc-1", "acme.act", timeout=60)))
    asking.start()
    eventually(lambda: regional._sender._later)
    local.mqtt.client.subscribe(requests, qos=1)
    asking.join(60)
    assert answers == [{"done": True}]


def test_a_handler_of_messages_cannot_wait_for_an_answer(offices: Offices) -> None:
    """Its thread brings the answers."""
    regional = offices.start(RegionalController, "rc-1")
    offices.start(LocalController, "lc-1").publish_discovery_report({"devices": []})
    errors: list[Exception] = []

    def ask(_report: object) -> None:
        try:
            regional.request("lc-1", "ping")
        except UsageError as error:
            errors.append(error)

    regional.subscribe_to_discovery_reports(ask)
    eventually(lambda: errors)
    assert "a handler of messages cannot wait for an answer" in str(errors[0])


@pytest.mark.parametrize("type_", ["restart", "policy.set", "Acme.x", "ping", "status.x"])
def test_types_of_an_application_have_its_prefix(tmp_path: Path, type_: str) -> None:
    """The other names belong to mqttkit."""
    settings = settings_of(tmp_path, "lc-1", transports=("memory",))
    with LocalController(settings, broker_at(1), bus=MemoryBus()) as local, pytest.raises(UsageError):
        local.answer_requests(type_, lambda _request: None)
    with pytest.raises(UsageError):
        local.publish_message(type_, {})


def test_messages_of_an_application_reach_the_handlers_of_their_prefix(offices: Offices) -> None:
    """Several handlers, by scope; a region's messages only if the key allows them."""
    local, regional = offices.start(LocalController, "lc-1"), offices.start(RegionalController, "rc-1")
    heard: list[tuple[str, str, Any]] = []

    def note(name: str) -> Any:
        def handler(envelope: Envelope) -> None:
            heard.append((name, envelope.message_type, envelope.payload))

        return handler

    regional.subscribe_to_messages("acme", note("first"))
    regional.subscribe_to_messages("acme", note("second"))
    regional.subscribe_to_messages("acme", note("zone"), scope="zone-A")
    regional.subscribe_to_events(note("event"))
    regional.subscribe_to_events(note("event, too"))
    local.publish_message("acme.backup", {"size": 3})
    local.publish_message("acme.zone", {}, scope="zone-A")
    local.publish_event("up")
    eventually(lambda: len(heard) == 5)
    assert [name for name, type_, _ in heard if type_ == "acme.backup"] == ["first", "second"]
    assert ("zone", "acme.zone", {}) in heard
    assert [name for name, type_, _ in heard if type_ == "event"] == ["event", "event, too"]


def test_requests_travel_over_http(tmp_path: Path) -> None:
    """In both directions, between a hub's controller and one that polls; the heartbeat of before is enough."""
    with ExitStack() as stack:
        served = settings_of(tmp_path, "rc-1", transports=("http",), http_listen="127.0.0.1:0", heartbeat_interval=30.0)
        regional = RegionalController(served, broker_at(1), bus=MemoryBus())
        stack.callback(regional.disconnect_mqtt, flush=0)
        regional.connect_mqtt(0)
        hub = regional.transports[0]
        assert isinstance(hub, HttpHub)
        settings = settings_of(tmp_path, "lc-1", transports=("http",), http_url=hub.url, heartbeat_interval=30.0)
        local = LocalController(settings, broker_at(1))
        stack.callback(local.disconnect_mqtt, flush=0)
        local.connect_mqtt(0)
        eventually(lambda: regional.topics.status("lc-1") in hub._retained)
        assert regional.request("lc-1", "ping", timeout=60) == {"controller": "lc-1", "role": "local"}
        assert local.request("rc-1", "ping", timeout=60) == {"controller": "rc-1", "role": "regional"}
