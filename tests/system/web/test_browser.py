"""The page in headless Chromium."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mqttkit.client import MqttClient
from mqttkit.web import server
from mqttkit.web.page import LivePage
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.clients import settings_for, wait_until
from tests.support.web import Events, browser, complaints, open_page, page_of

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("browser")]
COMPLETE = "return !('incomplete' in document.documentElement.dataset) && document.querySelector('header.top') !== null"
ATTACK = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[2J\x1b]0;x\x07\u202etxt"
)


@pytest.fixture(scope="module")
def web_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker"), "sys_interval 1", "max_queued_messages 0") as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as driver:
        yield driver


@pytest.fixture
def client(web_broker: Mosquitto) -> Iterator[MqttClient]:
    with MqttClient(settings_for(web_broker.port)) as publisher:
        publisher.connect()
        yield publisher


@pytest.fixture
def page(web_broker: Mosquitto, chromium: Any, topic: str) -> Iterator[LivePage]:
    """The page with the test's own topics, open in the browser; at the end the browser has logged no complaint."""
    with page_of(web_broker.port, f"{topic}/#") as running:
        open_page(chromium, running)
        yield running
        logged = complaints(chromium)
        chromium.get("about:blank")
    assert logged == []


def seen(chromium: Any, selector: str, condition: Callable[[str], Any] = bool) -> str:
    """Wait until the text of the elements that match is as wanted, and return it."""
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent).join('\\n')"
    found: list[str] = []

    def look() -> Any:
        found[:] = [chromium.execute_script(script, selector)]
        return condition(found[0])

    try:
        wait_until(look)
    except AssertionError:
        raise AssertionError(f"{selector}: {found[0][:2000]}") from None
    return found[0]


def select(chromium: Any, topic: str) -> None:
    script = "const node = mqttkit.model.find(arguments[0]); if (node) mqttkit.select(node); return Boolean(node)"
    wait_until(lambda: chromium.execute_script(script, topic))


def click(chromium: Any, selector: str) -> None:
    wait_until(lambda: chromium.find_elements("css selector", selector))[0].click()


def test_topics_appear_and_change(page: LivePage, chromium: Any, client: MqttClient, topic: str) -> None:
    client.publish(f"{topic}/room/temperature", b"20.25", qos=1, retain=True).wait(30)
    text = seen(chromium, ".rows .row", lambda text: "20.25" in text)
    assert "temperature" in text
    assert "▾room" in text.replace(" ", "").replace("\n", "")
    client.publish(f"{topic}/room/temperature", b"20.75", qos=1).wait(30)
    seen(chromium, ".rows .row", lambda text: "20.75" in text and "20.25" not in text)
    seen(chromium, "header.top", lambda text: "connected for" in text and "1 topics" in text)


def test_the_pane_shows_json_and_the_plot_draws(page: LivePage, chromium: Any, client: MqttClient, topic: str) -> None:
    name, numbers = f"{topic}/pump", itertools.count()

    def publish() -> None:
        """Publish another value: those that arrive together are one point of the plot."""
        client.publish(name, json.dumps({"value": next(numbers) % 5, "unit": "mm/s"}).encode(), qos=1).wait(30)

    def publish_until(condition: Callable[[], Any]) -> None:
        wait_until(lambda: publish() or condition())

    publish()
    publish()
    select(chromium, name)
    seen(chromium, "pre.payload", lambda text: '  "unit": "mm/s"' in text)
    seen(chromium, "table.values tr", lambda text: text.count("mm/s") >= 2)
    drawn = """
        const canvas = document.querySelector('.detail canvas');
        if (canvas === null || canvas.width === 0) return 0;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let coloured = 0;
        for (let place = 0; place < pixels.length; place += 4)
            if (pixels[place + 3] > 100 && pixels[place] < 60 && pixels[place + 1] > 100) coloured += 1;
        return coloured"""
    publish_until(lambda: chromium.execute_script(drawn) > 100)
    click(chromium, "#pin")
    click(chromium, "#tab-plots")
    wait_until(lambda: chromium.find_elements("css selector", ".card canvas"))
    points = "return mqttkit.model.series.get(arguments[0]).points.get('value').xs.length"
    before = chromium.execute_script(points, name)
    publish_until(lambda: chromium.execute_script(points, name) > before)
    assert "pump" in seen(chromium, ".card")


def test_ten_thousand_topics_scroll(page: LivePage, chromium: Any, client: MqttClient, topic: str) -> None:
    for number in range(10_000):
        client.publish(f"{topic}/line-{number // 100:03}/sensor-{number % 100:02}", b"%d" % number, wait=30)
    wait_until(lambda: chromium.execute_script("return mqttkit.model.topics") == 10_000)
    click(chromium, "button[title='Open every branch']")
    wait_until(lambda: chromium.execute_script("return mqttkit.rows.length") >= 10_100)
    chromium.execute_script("const rows = document.querySelector('.rows'); rows.scrollTop = rows.scrollHeight")
    seen(chromium, ".rows .row", lambda text: "9999" in text)
    assert len(chromium.find_elements("css selector", ".rows .row")) < 100
    chromium.execute_script("document.querySelector('.rows').scrollTop = 22 * 5000")
    seen(chromium, ".rows .row", lambda text: "sensor-" in text and "9999" not in text)
    client.publish(f"{topic}/line-000/sensor-00", b"changed", qos=1).wait(30)
    chromium.find_element("css selector", "#filter").send_keys("+/+/line-000/sensor-00")
    seen(chromium, ".rows .row", lambda text: "changed" in text and "sensor-01" not in text)


def test_an_attack_stays_text(page: LivePage, chromium: Any, client: MqttClient, topic: str) -> None:
    """Markup, terminal escapes, marks of direction, a payload of 1 MiB; in payloads and in topic names."""
    name = f"{topic}/<img src=x onerror=alert(1)>"
    client.publish(name, ATTACK.encode(), qos=1).wait(30)
    client.publish(f"{topic}/large", (ATTACK * 10_000).encode()[: 1024 * 1024], qos=1).wait(30)
    text = seen(chromium, ".rows .row", lambda text: "<script>" in text and "large" in text)
    assert "<img src=x onerror=alert(1)>" in text
    assert not set(text) & set("\x1b\x07\u202e")
    for chosen in (name, f"{topic}/large"):
        select(chromium, chosen)
        text = seen(chromium, "pre.payload", lambda text: "<script>document.title" in text)
        assert "\\x1b[2J" in text
        assert not set(text) & set("\x1b\x07\u202e")
    assert "more bytes" in text
    assert chromium.title == "mqttkit web"
    assert chromium.execute_script("return document.querySelectorAll('main img, main script, main iframe').length") == 0
    chromium.find_element("css selector", "#filter").send_keys("<b>&lt;")
    seen(chromium, ".rows", lambda text: "No topic matches" in text)


def test_pause_stops_the_view_and_resume_catches_up(
    page: LivePage, chromium: Any, client: MqttClient, topic: str
) -> None:
    client.publish(f"{topic}/a", b"first", qos=1).wait(30)
    seen(chromium, ".rows .row", lambda text: "first" in text)
    click(chromium, "#pause")
    seen(chromium, "header.top", lambda text: "PAUSED" in text)
    wait_until(lambda: page.hub.viewers == 0)
    client.publish(f"{topic}/a", b"second", qos=1).wait(30)
    assert "second" not in seen(chromium, ".rows .row")
    click(chromium, "#pause")
    assert "first" not in seen(chromium, ".rows .row", lambda text: "second" in text)


def test_keys_move_through_the_tree(page: LivePage, chromium: Any, client: MqttClient, topic: str) -> None:
    client.publish(f"{topic}/a/b", b"1", qos=1).wait(30)
    seen(chromium, ".rows .row", lambda text: "b" in text)
    rows = chromium.find_element("css selector", ".rows")
    for key in ("\ue010", "\ue012"):  # end, left
        rows.send_keys(key)
    seen(chromium, ".row.selected .c-name", lambda text: text == "▾a")
    rows.send_keys("\ue007")  # enter closes it
    assert seen(chromium, ".row.selected .c-name", lambda text: "▸" in text) == "▸a"


def test_bluetooth_controllers_and_broker_have_their_tabs(
    web_broker: Mosquitto, chromium: Any, client: MqttClient
) -> None:
    advertisement = {"scanner_id": "gate", "mac_address": "AA:BB:CC:DD:EE:FF", "rssi": -58, "local_name": "<Thermo>"}
    with page_of(web_broker.port) as page:
        open_page(chromium, page)
        client.publish("ble/raw/gate/AA:BB:CC:DD:EE:FF", json.dumps(advertisement).encode(), qos=1).wait(30)
        client.publish("pdsno/status/rc-1", b"not signed", qos=1).wait(30)
        client.publish("metrics/_mqttkit/group/ingest/b1", b'{"host": "machine", "expires": 60}', qos=1).wait(30)
        click(chromium, "#tab-bluetooth")
        seen(chromium, "svg.map text", lambda text: "gate" in text and "<Thermo>" in text)
        seen(chromium, ".devices td", lambda text: "-58" in text)
        click(chromium, "#tab-services")
        seen(chromium, ".controllers td", lambda text: "rc-1" in text and "not verified" in text)
        seen(chromium, ".bridge", lambda text: "b1" in text and "running" in text)
        click(chromium, "#tab-broker")
        seen(chromium, ".figures", lambda text: "version" in text and "clients connected" in text)
        assert complaints(chromium) == []


def test_a_page_too_many_says_so_and_opens_once_there_is_room(web_broker: Mosquitto, chromium: Any) -> None:
    with page_of(web_broker.port, max_viewers=1) as page:
        with Events(page) as first:
            first.until("reset")
            chromium.get(page.address)
            seen(chromium, "header.top [role=alert]", lambda text: "open 1 times already" in text)
        wait_until(lambda: chromium.execute_script("return mqttkit.stream.state") == "live")
        assert page.hub.viewers == 1
        assert seen(chromium, "header.top", lambda text: "connected for" in text).count("already") == 0
        chromium.get("about:blank")


def test_resume_replaces_the_attempt_that_waits(web_broker: Mosquitto, chromium: Any) -> None:
    """Otherwise the page would have two streams, and count each message twice."""
    collect = """
        globalThis.attempts = [];
        const later = setTimeout;
        globalThis.setTimeout = (run, wait) => (wait >= 1000 ? attempts.push(run) : later(run, wait))"""
    attempt = """
        const before = mqttkit.stream.source;
        attempts.forEach((run) => run());
        return mqttkit.stream.source === before"""
    with page_of(web_broker.port, max_viewers=1) as page:
        with Events(page) as first:
            first.until("reset")
            chromium.get(page.address)
            seen(chromium, "header.top [role=alert]", lambda text: "open 1 times already" in text)
            chromium.execute_script(collect)
            wait_until(lambda: chromium.execute_script("return attempts.length") == 1)
        wait_until(lambda: page.hub.viewers == 0)
        chromium.execute_script("mqttkit.pause(); mqttkit.pause()")
        wait_until(lambda: chromium.execute_script("return mqttkit.stream.state") == "live")
        assert chromium.execute_script(attempt)
        chromium.get("about:blank")


@pytest.mark.parametrize("name", ["plots_tab.js", "vendor/htm.umd.js", "style.css"])
def test_the_page_loads_again_if_a_file_did_not_arrive(
    web_broker: Mosquitto, chromium: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser gives up on its requests when the machine's network changes, and never repeats them by itself."""
    asked: list[str] = []
    send_file = server._Handler._send_file

    def drop_the_first(handler: server._Handler, wanted: str) -> None:
        asked.append(wanted)
        if wanted != name or asked.count(name) > 1:
            send_file(handler, wanted)

    monkeypatch.setattr(server._Handler, "_send_file", drop_the_first)
    with page_of(web_broker.port) as page:
        chromium.get(page.address)
        wait_until(lambda: asked.count(name) >= 2)
        wait_until(lambda: chromium.execute_script(COMPLETE))
        seen(chromium, "header.top", lambda text: "connected for" in text)
        assert asked.count(name) == 2
        assert name in "".join(complaints(chromium))
        chromium.get("about:blank")


def test_the_page_says_that_the_server_has_ended(web_broker: Mosquitto, chromium: Any) -> None:
    with page_of(web_broker.port) as page:
        open_page(chromium, page)
    text = seen(chromium, "header.top [role=alert]", bool)
    assert text == "no answer from mqttkit web; trying again …"
