"""MQTT, then HTTP, then the in-process bus, and back: nothing lost, nothing handled twice."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from mqttkit.controller import LocalController, MemoryBus, Policy, RegionalController
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import KeyFile, KeyRing
from mqttkit.controller.transports.http import HttpTransport
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.controller.transports.in_process import MemoryTransport
from mqttkit.controller.transports.types import ReceivedMessage
from mqttkit.errors import ConfigError, PortTaken, StoreFailed
from tests.support.brokers import Mosquitto, free_port
from tests.support.controllers import broker_at, eventually, make_keys, settings_of


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test started."""
    with ExitStack() as opened:
        yield opened


def pair(
    directory: Path, port: int, stack: ExitStack, *order: str, bus: MemoryBus | None = None
) -> tuple[RegionalController, LocalController]:
    """A regional controller that serves HTTP, and a local one that knows where."""
    mqtt = broker_at(port)
    served = settings_of(directory, "rc-1", transports=order, http_listen="127.0.0.1:0")
    regional = RegionalController(served, mqtt, bus=bus)
    stack.callback(regional.disconnect_mqtt, flush=0)
    regional.connect_mqtt(0)
    regional.subscribe_to_discovery_reports()
    hubs = [one for one in regional.transports if isinstance(one, HttpHub)]
    url = hubs[0].url if hubs else None
    local = LocalController(settings_of(directory, "lc-1", transports=order, http_url=url), mqtt, bus=bus)
    stack.callback(local.disconnect_mqtt, flush=0)
    local.connect_mqtt(0)
    return regional, local


def send(local: LocalController, numbers: range) -> None:
    """Publish numbered reports without waiting for them."""
    for number in numbers:
        local.publish_discovery_report({"devices": [], "number": number})


def test_reports_go_by_http_while_the_broker_is_down_and_by_mqtt_again_after(
    tmp_path: Path, broker: Mosquitto, stack: ExitStack
) -> None:
    """Under traffic; each report is handled once, each hop is counted and in the status."""
    regional, local = pair(tmp_path, broker.port, stack, "mqtt", "http")
    seen: list[int] = []
    regional._report_handler = lambda report: seen.append(report.payload["number"])
    assert regional.mqtt is not None and local.mqtt is not None
    assert regional.mqtt.client.wait_connected(60) and local.mqtt.client.wait_connected(60)
    send(local, range(100))
    eventually(lambda: len(seen) == 100)
    broker.stop()
    send(local, range(100, 200))
    eventually(lambda: len(seen) == 200)
    assert local.status()["transport"] == "http"
    broker.start()
    numbers = iter(range(200, 10_000))

    def back() -> bool:
        number = next(numbers)
        send(local, range(number, number + 1))
        return local.flush(60) and local.status()["transport"] == "mqtt"

    eventually(back)
    total = next(numbers)
    eventually(lambda: len(seen) == total)
    assert sorted(seen) == list(range(total))
    status = local.status()
    assert status["hops"] >= 2
    assert status["sent"]["http"] >= 99
    assert sum(status["sent"].values()) >= total  # one without a receipt goes again, and is handled once all the same


def test_a_broker_killed_under_way_takes_nothing_with_it(
    tmp_path: Path, broker: Mosquitto, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report without a receipt goes again by HTTP, even if the broker had acknowledged it; none is handled twice."""
    regional, local = pair(tmp_path, broker.port, stack, "mqtt", "http")
    monkeypatch.setattr("mqttkit.controller.handover.pending.RECEIPT_SECONDS", 1.0)
    seen: list[int] = []
    regional._report_handler = lambda report: seen.append(report.payload["number"])
    assert local.mqtt is not None and local.mqtt.client.wait_connected(60)
    feeder = threading.Thread(target=send, args=(local, range(2_000)))
    feeder.start()
    eventually(lambda: len(seen) > 100)
    broker.stop(9)
    feeder.join()
    assert local.flush(150)
    assert sorted(seen) == list(range(2_000))


def test_without_any_network_controllers_of_one_process_still_talk(tmp_path: Path, stack: ExitStack) -> None:
    """The bus is the last way; policies come by it too."""
    bus = MemoryBus()
    regional, local = pair(tmp_path, 1, stack, "mqtt", "memory", bus=bus)
    regional.publish_policy_update({"a": 1})[1].wait(60)
    policies: list[Policy] = []
    local.subscribe_to_policy_updates(policies.append)
    report = local.run_discovery_cycle(timeout=60)
    found = regional.wait_for_report("lc-1", timeout=60)
    assert found is not None and found.payload == report
    eventually(lambda: policies == [Policy("zone-A", 1, {"a": 1})])
    assert local.status()["sent"] == {"memory": 1}


def test_the_order_is_configurable(tmp_path: Path, broker: Mosquitto, stack: ExitStack) -> None:
    """HTTP first, although the broker is there."""
    regional, local = pair(tmp_path, broker.port, stack, "http", "mqtt")
    eventually(lambda: local.transports[0].available)
    local.run_discovery_cycle(timeout=60)
    assert regional.wait_for_report("lc-1", timeout=60) is not None
    assert local.status()["sent"] == {"http": 1}


def test_a_policy_published_in_the_dark_reaches_pollers_and_later_the_broker(
    tmp_path: Path, broker: Mosquitto, stack: ExitStack
) -> None:
    """Retained on the hub at once; when the broker is back it gets the policy too, for newcomers."""
    broker.stop()
    regional, local = pair(tmp_path, broker.port, stack, "mqtt", "http")
    local.subscribe_to_policy_updates()
    regional.publish_policy_update({"mode": "dark"})
    eventually(lambda: (policy := local.policy("zone-A")) is not None and policy.rules == {"mode": "dark"})
    broker.start()
    assert regional.mqtt is not None and regional.mqtt.client.wait_connected(60)
    newcomer = LocalController(settings_of(tmp_path, "lc-2", transports=("mqtt",)), broker_at(broker.port))
    stack.callback(newcomer.disconnect_mqtt)
    assert newcomer.connect_mqtt(60)
    newcomer.subscribe_to_policy_updates()
    eventually(lambda: (policy := newcomer.policy("zone-A")) is not None and policy.rules == {"mode": "dark"})
    assert "refused_malformed" not in {**regional.status()["counters"], **newcomer.status()["counters"]}


def test_reports_wait_while_no_way_works_and_leave_when_one_does(
    tmp_path: Path, broker: Mosquitto, stack: ExitStack
) -> None:
    """The sender keeps them; a full queue drops the oldest and counts them."""
    broker.stop()
    regional, local = pair(tmp_path, broker.port, stack, "mqtt")
    local._sender._limit = 50
    promises = [local.publish_discovery_report({"devices": [], "number": number}) for number in range(60)]
    assert [promise.done for promise in promises] == [True] * 10 + [False] * 50
    assert (local.status()["dropped"], local.status()["unsent"]) == (10, 50)
    broker.start()
    eventually(lambda: regional.report_count == 50)
    assert all(promise.wait(60) and promise.ok for promise in promises[10:])


# --- the transports by themselves ---------------------------------------------------------------------------


@pytest.fixture
def hub(stack: ExitStack) -> HttpHub:
    """A hub whose controller takes everything beneath a/ at once."""
    served = HttpHub()
    served.subscribe("a/#")
    served.start(lambda deliveries: [one.ack() for one in deliveries] and None, lambda: None)
    stack.callback(served.close)
    return served


def ask(url: str, method: str = "GET", body: bytes | None = None, *, token: str = "") -> tuple[int, bytes]:
    """Make one request."""
    with urllib3.PoolManager(retries=False, timeout=60) as pool:
        answer = pool.request(method, url, body=body, headers={"Authorization": f"Bearer {token}"})
        return answer.status, answer.data


def test_the_hub_answers_what_its_page_says(hub: HttpHub) -> None:
    """Each bad request has its code and a sentence; what is retained comes without a cursor, the rest after it."""
    base = f"{hub.url}/v1/messages"
    assert ask(f"{hub.url}/v1/health") == (200, b"{}")
    assert ask(f"{hub.url}/x")[0] == 404
    assert ask(base, "PUT")[0] == 405
    assert ask(f"{base}?topic=a/%23", "POST", b"x")[0] == 400
    assert ask(base, "POST", b"x") == (400, b"topic name is empty")
    assert ask(f"{base}?filter=a/b%23")[0] == 400
    assert ask(f"{base}?topic=a/b", "POST", b"x" * (256 * 1024 + 1))[0] == 413
    assert ask(f"{base}?topic=a/b&retain=1", "POST", b"kept") == (204, b"")
    first = json.loads(ask(f"{base}?filter=a/%2B")[1])
    assert first["messages"] == [{"topic": "a/b", "data": "a2VwdA=="}]
    assert ask(f"{base}?topic=a/c", "POST", b"\xff\x00") == (204, b"")
    second = json.loads(ask(f"{base}?filter=a/%2B&after={first['cursor']}")[1])
    assert second["messages"] == [{"topic": "a/c", "data": "/wA="}]
    assert json.loads(ask(f"{base}?filter=a/%2B&after={second['cursor']}")[1])["messages"] == []
    assert ask(f"{base}?filter=b&after={second['cursor']}x")[0] == 400
    former_life = json.loads(ask(f"{base}?filter=a/%2B&after=0-7")[1])["messages"]
    assert [message["topic"] for message in former_life] == ["a/b", "a/c"]


def test_the_hub_keeps_nothing_that_is_not_believed(tmp_path: Path, stack: ExitStack) -> None:
    """A forged policy does not take the place of the true one; it is refused and counted."""
    regional, local = pair(tmp_path, 1, stack, "http")
    local.subscribe_to_policy_updates()
    regional.publish_policy_update({"true": True})
    eventually(lambda: local.policy("zone-A") is not None)
    hub = regional.transports[0]
    assert isinstance(hub, HttpHub)
    where = f"{hub.url}/v1/messages?retain=1&topic="
    assert ask(f"{where}{regional.topics.policy('zone-A')}", "POST", b"forged")[0] == 403
    assert ask(f"{where}elsewhere", "POST", b"forged")[0] == 403
    assert ask(f"{where}{regional.topics.discovery('zone-A', 'lc-1')}", "POST", b"forged")[0] == 403
    assert regional.status()["counters"]["refused_malformed"] == 2  # the report, and the policy that it watches
    accepted = {regional.topics.policy("zone-A"), *(regional.topics.status(name) for name in ("rc-1", "lc-1"))}
    eventually(lambda: {topic for topic, _ in _kept(hub, tmp_path)} == accepted)
    assert b"forged" not in dict(_kept(hub, tmp_path)).values()


def _kept(hub: HttpHub, directory: Path) -> list[tuple[str, bytes]]:
    token = SignedCodec(KeyFile(make_keys(directory))).sign_request("any", "/v1/messages")
    messages = json.loads(ask(f"{hub.url}/v1/messages?filter=%23", token=token)[1])["messages"]
    return [(message["topic"], base64.b64decode(message["data"])) for message in messages]


def test_the_hub_does_not_confirm_what_its_controller_did_not_handle(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, so that the sender tries again."""
    monkeypatch.setattr("mqttkit.controller.transports.http_hub.HANDLE_SECONDS", 0.1)
    served = HttpHub()
    served.subscribe("#")
    served.start(lambda _: None, lambda: None)
    stack.callback(served.close)
    assert ask(f"{served.url}/v1/messages?topic=a", "POST", b"x")[0] == 503


def test_a_port_that_is_taken_is_named(hub: HttpHub) -> None:
    """Before anything is served."""
    second = HttpHub(port=int(hub.url.rpartition(":")[2]))
    with pytest.raises(PortTaken, match=r"cannot serve HTTP on 127\.0\.0\.1:\d+"):
        second.start(lambda _: None, lambda: None)
    second.close()


def test_a_controller_that_cannot_serve_is_closed(tmp_path: Path, hub: HttpHub) -> None:
    """PortTaken, and no thread, socket or store is left open."""
    where = hub.url.removeprefix("http://")
    regional = RegionalController(settings_of(tmp_path, "rc-1", transports=("http",), http_listen=where), broker_at(1))
    with pytest.raises(PortTaken):
        regional.connect_mqtt()
    with pytest.raises(StoreFailed):
        regional._store.count()


def test_a_heartbeat_that_cannot_be_signed_is_said(
    tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """A key ring without an active key: the controller lives, and goes on when there is one."""
    settings = settings_of(tmp_path, "rc-1", transports=("memory",), heartbeat_interval=0.05)
    regional = RegionalController(settings, broker_at(1), bus=MemoryBus())
    stack.callback(regional.disconnect_mqtt)
    regional.connect_mqtt(0)
    keys = KeyFile(make_keys(tmp_path))
    before = keys.ring
    keys.save(KeyRing())
    eventually(lambda: "cannot send a heartbeat: the key ring has no active key" in caplog.text)
    keys.save(before)
    assert regional._heartbeats.thread.is_alive()


def test_the_http_client_notices_a_hub_that_comes_and_goes(stack: ExitStack) -> None:
    """Available with the first answer, not any more with the first failure."""
    port = free_port()
    received: list[ReceivedMessage] = []
    client = HttpTransport(f"http://127.0.0.1:{port}/", poll_seconds=0.05)
    client.subscribe("a/#")
    client.start(lambda found: received.extend(found) or ([one.ack() for one in found] and None), lambda: None)
    stack.callback(client.close)
    ticket = client.send("a/b", b"x", qos=1, retain=False)
    ticket.wait(60)
    assert (ticket.done, ticket.ok, client.available) == (True, False, False)
    served = HttpHub(port=port)
    served.start(lambda _: None, lambda: None)
    stack.callback(served.close)
    eventually(lambda: client.available)
    ticket = client.send("a/b", b"x", qos=1, retain=False)
    ticket.wait(60)
    assert ticket.ok
    eventually(lambda: [(one.topic, one.data) for one in received] == [("a/b", b"x")])
    served.close()
    eventually(lambda: not client.available)


def test_something_else_on_the_port_is_no_hub(stack: ExitStack) -> None:
    """An answer that is not the hub's does not make it available."""
    listener = socket.create_server(("127.0.0.1", 0))
    stack.callback(listener.close)
    client = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", poll_seconds=0.05)
    client.start(lambda _: None, lambda: None)
    stack.callback(client.close)
    for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"SSH-2.0-x\r\n"):
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(answer)
        connection.close()
        assert not client.available
    listener.close()


def test_the_bus_reaches_those_who_subscribe_and_no_others() -> None:
    """Not the sender itself; a message that nobody takes is no transport accepted."""
    bus = MemoryBus()
    boxes: dict[str, list[ReceivedMessage]] = {"a": [], "b": []}
    members = {name: MemoryTransport(bus) for name in boxes}
    for name, member in members.items():
        assert not member.available
        member.start(boxes[name].extend, lambda: None)
        member.subscribe(f"to/{name}")
    nobody = members["a"].send("to/a", b"x", qos=1, retain=False)
    assert (nobody.done, nobody.ok) == (True, False)
    ticket = members["a"].send("to/b", b"x", qos=1, retain=False)
    assert not ticket.done
    boxes["b"][0].ack()
    assert ticket.ok
    members["b"].close()
    assert not members["a"].send("to/b", b"x", qos=1, retain=False).ok


@pytest.mark.parametrize("text", ["127.0.0.1:99999", ":1", "host:x"])
def test_a_listening_address_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match="http_listen"):
        RegionalController(settings_of(tmp_path, "rc-1", transports=("http",), http_listen=text), broker_at(1))
