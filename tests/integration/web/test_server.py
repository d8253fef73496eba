"""The page's server with a real broker: who gets what, and how events arrive."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, MqttkitError
from mqttkit.web import access, server
from mqttkit.web.access import PageAccess
from mqttkit.web.page import LivePage
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import settings_for, wait_until
from tests.support.web import Events, address_of, get, page_of

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def web_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker"), "sys_interval 1", "max_queued_messages 0") as running:
        yield running


@pytest.fixture
def client(web_broker: Mosquitto) -> Iterator[MqttClient]:
    with MqttClient(settings_for(web_broker.port)) as publisher:
        publisher.connect()
        yield publisher


@pytest.fixture
def page(web_broker: Mosquitto, topic: str) -> Iterator[LivePage]:
    with page_of(web_broker.port, f"{topic}/#") as running:
        yield running


def number_of(page: LivePage, topic: str) -> int:
    """Return the number of a topic once the page knows it."""
    with Events(page) as events:
        events.until("reset")
        return wait_until(lambda: [n for n in range(50) if (found := page.hub.find(n)) and found[0] == topic] or None)[
            0
        ]


def test_each_answer_forbids_what_the_page_does_not_need(page: LivePage) -> None:
    status, headers, body = get(page, "/")
    assert (status, b'<div id="app">' in body) == (200, True)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers


def test_without_the_token_there_is_no_data(page: LivePage) -> None:
    for path in ("/", "/events", "/topic?number=0"):
        status, _, body = get(page, path, token=False)
        assert (status, b"token" in body) == (403, True), path
        assert get(page, path + ("&" if "?" in path else "?") + "token=wrong", token=False)[0] == 403
    assert get(page, "/static/app.js", token=False)[0] == 200


def test_names_of_other_sites_are_refused(page: LivePage) -> None:
    """DNS rebinding: the browser sends the token, but the name of the attacker's site."""
    for path in ("/", "/events", "/static/app.js"):
        assert get(page, path, Host="evil.example")[0] == 421
    assert get(page, "/topic?number=0", Sec_Fetch_Site="cross-site")[0] == 403
    assert get(page, "/topic?number=0", Sec_Fetch_Site="same-origin")[0] == 404


@pytest.mark.parametrize(
    "path", ["/static/../access.py", "/static/%2e%2e/access.py", "/static/", "/nothing", "/topic?number=x"]
)
def test_other_paths_do_not_exist(page: LivePage, path: str) -> None:
    assert get(page, path)[0] == 404


def test_malformed_requests_get_a_plain_answer(page: LivePage) -> None:
    host, port, _ = address_of(page)
    for request in (b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, port), timeout=60) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status in (400, 414, 501)
            assert b"nonsense" not in answer.read()


def test_the_password_opens_the_page(web_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_PASSWORD_SECONDS", 0.0)
    with page_of(web_broker.port, access=PageAccess(password=PASSWORD)) as page:
        assert "token" not in page.address
        status, headers, _ = get(page, "/")
        assert (status, headers["WWW-Authenticate"][:5]) == (401, "Basic")
        encoded = base64.b64encode(f"x:{PASSWORD}".encode()).decode()
        assert get(page, "/", Authorization=f"Basic {encoded}")[0] == 200
        assert get(page, "/", Authorization="Basic eDp5")[0] == 401


def test_nothing_secret_is_logged(page: LivePage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    get(page, "/")
    get(page, "/events?token=guess", token=False)
    assert address_of(page)[2].removeprefix("?token=") not in caplog.text
    assert "guess" not in caplog.text


def test_messages_arrive_as_events_each_once(page: LivePage, client: MqttClient, topic: str) -> None:
    client.publish(f"{topic}/before", b"21.5", qos=1).wait(60)
    wait_until(lambda: len(page.tree) == 1)
    with Events(page) as events:
        assert events.until("reset") == {"lost": 0, "topics": 1}
        ((number, name, count, *_, text),) = events.until("topics")
        assert (name, count, text) == (f"{topic}/before", 1, "21.5")
        for value in range(200):
            client.publish(f"{topic}/{value % 3}", b"%d" % value, wait=60)
        names, values = {number: name}, []
        while len(values) < 200:
            batch = events.until("batch")
            names.update(batch["fresh"])
            for _, flat in batch["parts"]:
                values += [(names[flat[place]], flat[place + 3]) for place in range(0, len(flat), 4)]
    assert values == [(f"{topic}/{value % 3}", str(value)) for value in range(200)]


def test_a_topic_is_told_in_full(page: LivePage, client: MqttClient, topic: str) -> None:
    for value in (b'{"t": 20, "on": true}', b'{"t": 21.5, "on": true, "x": "\\u001b[2J<script>"}'):
        client.publish(f"{topic}/json", value, qos=1, retain=True).wait(60)
    wait_until(lambda: (node := page.tree.find(f"{topic}/json")) and node.count == 2)
    number = number_of(page, f"{topic}/json")
    status, headers, body = get(page, f"/topic?number={number}")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    detail = json.loads(body)
    assert detail["topic"] == f"{topic}/json"
    assert '  "t": 21.5,' in detail["lines"]
    assert "\x1b" not in body.decode()
    assert [value for _, value in detail["series"]["t"]] == [20, 21.5]
    assert detail["changes"][0] == '-  "t": 20,'
    assert detail["command"].startswith("mqttkit sub")
    hexadecimal = json.loads(get(page, f"/topic?number={number}&shape=hex")[2])
    assert "7b 22 74 22" in hexadecimal["lines"][0]


def test_a_reader_that_stalls_never_stops_the_others(
    page: LivePage, client: MqttClient, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a snapshot with the number of messages that it lost; the tree has every message."""
    monkeypatch.setattr(server._Handler, "timeout", 120.0)
    sent = 0
    with Events(page, buffer=4096) as stalled:
        stalled.until("reset")
        (viewer,) = page.hub._viewers
        while not viewer.lost:  # the kernel keeps some megabytes for it first
            for number in range(2_000):
                client.publish(f"{topic}/{number % 5}", b"y" * 2_000, wait=60)
            sent += 2_000
            wait_until(lambda total=sent: page.tree.received == total)  # type: ignore[misc]
        while (found := stalled.until("reset"))["lost"] == 0:
            pass
        assert 0 < found["lost"] <= sent


def test_a_reader_that_stalls_too_long_is_disconnected(
    page: LivePage, client: MqttClient, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.5)
    with Events(page, buffer=4096) as stalled:
        stalled.until("reset")

        def publish_until_it_is_gone() -> bool:
            client.publish(topic, b"z" * 250, wait=60)
            for number in range(2000):
                client.publish(f"{topic}/{number % 5}", b"y" * 250, wait=60)
            return page.hub.viewers == 0

        wait_until(publish_until_it_is_gone)
        assert stalled.ends()


def test_too_many_viewers_are_refused(web_broker: Mosquitto) -> None:
    with page_of(web_broker.port, max_viewers=2) as page, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Events(page)).until("reset")
        status, headers, body = get(page, "/events")
        assert (status, b"--max-viewers" in body) == (503, True)
        assert int(headers["Retry-After"]) > 0


def test_a_viewer_that_goes_makes_room(web_broker: Mosquitto, client: MqttClient) -> None:
    with page_of(web_broker.port, max_viewers=1) as page:
        with Events(page) as events:
            events.until("reset")
        wait_until(lambda: page.hub.viewers == 0)
        with Events(page) as events:
            assert events.until("reset")["lost"] == 0


def test_too_many_connections_are_refused(web_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """They learn that they may try again; once there is room, the page answers."""
    monkeypatch.setattr(server, "OTHER_CONNECTIONS", 4)
    monkeypatch.setattr(server._Handler, "timeout", 600.0)
    with page_of(web_broker.port, max_viewers=1) as page:
        host, port, _ = address_of(page)
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection((host, port), timeout=60)) for _ in range(15)]
            for connection in silent[12:]:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                assert (answer.status, answer.headers["Retry-After"], answer.read()) == (503, "5", b"")
        wait_until(lambda: answers(page) == 200)


def answers(page: LivePage) -> int:
    """Return the status of the page; 0 if the connection ended without an answer."""
    try:
        return get(page, "/")[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_each_second_says_how_the_broker_is(page: LivePage, web_broker: Mosquitto) -> None:
    with Events(page) as events:
        while not (second := events.until("second"))["broker"]:
            pass
    assert second["connection"]["state"] == "connected"
    assert second["connection"]["address"].endswith(f":{web_broker.port}")
    assert second["broker"]["version"]
    assert second["viewers"] == 1
    assert second["ble"] == {"scanners": [], "devices": []}


def test_the_end_of_the_command_ends_the_streams(web_broker: Mosquitto) -> None:
    with page_of(web_broker.port) as page:
        events = Events(page)
        events.until("reset")
    with events:
        assert events.ends()


def test_without_a_broker_it_does_not_start() -> None:
    with pytest.raises(BrokerUnreachable), page_of(free_port()):
        pass


def test_a_port_that_is_taken_is_an_error_with_a_hint(web_broker: Mosquitto) -> None:
    with (
        pytest.raises(MqttkitError, match="--listen"),
        page_of(web_broker.port, access=PageAccess(port=web_broker.port)),
    ):
        pass
