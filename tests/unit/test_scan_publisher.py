"""The scan publisher: payload, hand-over queue, delivery, totals."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter

import jsonschema
import pytest

from mqttkit.client import MqttClient, Receipt
from mqttkit.errors import TopicError
from mqttkit.messages import Outcome
from mqttkit.scan_publisher import SHUTDOWN, ScanPublisher, ScanTotals, format_advertisement
from mqttkit.scan_publisher.delivery import DENIED, LAG, PROBE_SECONDS, Delivery
from mqttkit.scan_publisher.hand_over import QUEUE_FULL, TOO_OLD, HandOverQueue
from mqttkit.scan_publisher.totals import REPEAT_SECONDS, LossLog
from mqttkit.scanner import open_source
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.settings import LimitSettings, MqttSettings, PublisherSettings, ScannerSettings
from mqttkit.topics import check_scanner_id
from tests.support.pages import ROOT, find_page

CAPTURES = ROOT / "mqttkit" / "data" / "captures"
SCHEMA = json.loads(find_page("advertisement.schema.json").read_text())


def heard(**fields: object) -> Advertisement:
    """Return an advertisement with some of its fields given."""
    return Advertisement(**{"mac_address": "AA:BB:CC:DD:EE:FF", "rssi": -40, "timestamp": 1.5, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(path.name for path in CAPTURES.iterdir() if path.suffix != ".md"))
def test_every_real_advertisement_becomes_a_payload_of_the_schema(name: str) -> None:
    """Whatever was recorded from real devices is published as the JSON Schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    with open_source(ScannerSettings(source=f"replay:{CAPTURES / name}", speed=None)) as source:
        payloads = [
            json.loads(format_advertisement(advertisement, "scanner-01", 1, raw=True)) for advertisement in source
        ]
    assert len(payloads) > 400
    for payload in payloads:
        validator.validate(payload)


def test_payload_has_the_names_and_forms_promised() -> None:
    """Field names, timestamp in UTC with milliseconds, company identifier in air order."""
    payload = format_advertisement(
        heard(
            timestamp=1768127445.1234,
            manufacturer_data={0x004C: (b"\x02\x15",)},
            service_uuids=("0000180f-0000-1000-8000-00805f9b34fb",),
            local_name="Thermo é",
            service_data={"0000180f-0000-1000-8000-00805f9b34fb": b"d"},
            tx_power=-8,
        ),
        "scanner-01",
        7,
    )
    assert json.loads(payload) == {
        "scanner_id": "scanner-01",
        "sequence": 7,
        "mac_address": "AA:BB:CC:DD:EE:FF",
        "address_type": "public",
        "rssi": -40,
        "timestamp": "2026-01-11T10:30:45.123Z",
        "manufacturer_data": {"4c00": "0215"},
        "service_uuids": ["0000180f-0000-1000-8000-00805f9b34fb"],
        "local_name": "Thermo é",
        "service_data": {"0000180f-0000-1000-8000-00805f9b34fb": "64"},
        "tx_power": -8,
    }


def test_absent_parts_are_null_or_left_out_and_no_manufacturer_field_is_lost() -> None:
    """An empty advertisement has its seven fields; a company's several fields are all there."""
    bare = json.loads(format_advertisement(heard(rssi=None), "s", 1))
    assert bare == {
        "scanner_id": "s",
        "sequence": 1,
        "mac_address": "AA:BB:CC:DD:EE:FF",
        "address_type": "public",
        "rssi": None,
        "timestamp": "1970-01-01T00:00:01.500Z",
        "manufacturer_data": {},
        "service_uuids": [],
        "local_name": None,
    }
    several = json.loads(format_advertisement(heard(manufacturer_data={0x88EC: (b"\x01", b"\x02")}), "s", 1))
    assert (several["manufacturer_data"], several["manufacturer_data_earlier"]) == ({"ec88": "02"}, [{"ec88": "01"}])


def test_hostile_names_are_valid_json() -> None:
    """Control characters, quotes and lone surrogates in a name give JSON that reads back."""
    for name in ('a"b\\c', "\x03\x1b[2J", "\u2028", "x\ufffd"):
        assert json.loads(format_advertisement(heard(local_name=name), "s", 1))["local_name"] == name


@pytest.mark.parametrize("scanner_id", ["", "a/b", "+", "a#", "a\0", "x" * 65])
def test_scanner_identifier_that_is_no_topic_level_is_refused(scanner_id: str) -> None:
    """An identifier that would change the topic's levels never gets that far."""
    with pytest.raises(TopicError):
        check_scanner_id(scanner_id)


def test_payload_reads_back_as_the_same_advertisement() -> None:
    """A random address stays random, and `raw_ad` is there if asked for and known."""
    device = heard(address_type="random", connectable=False, raw=b"\x02\x01\x06", adapter="hci1")
    fields = json.loads(format_advertisement(device, "s", 1, raw=True))
    assert fields["raw_ad"] == "020106"
    assert Advertisement.from_json(fields) == device
    jsonschema.Draft202012Validator(SCHEMA).validate(fields)
    assert "raw_ad" not in json.loads(format_advertisement(device, "s", 1))
    assert "raw_ad" not in json.loads(format_advertisement(heard(), "s", 1, raw=True))


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rssis(queue: HandOverQueue, count: int = 100) -> list[int | None]:
    """Take advertisements; return their RSSI."""
    return [advertisement.rssi for _, _, advertisement in queue.take(count, 0)]


def test_full_queue_drops_the_oldest_advertisement_and_counts_it() -> None:
    """`put` does not block; numbers show the gap."""
    queue = HandOverQueue(3)
    for number in range(5):
        queue.put([heard(rssi=number)])
    assert [(number, advertisement.rssi) for _, number, advertisement in queue.take(2, 0)] == [(3, 2), (4, 3)]
    assert rssis(queue) == [4]
    assert queue.dropped == {QUEUE_FULL: 2}


def test_queue_drops_advertisements_older_than_the_maximum_age() -> None:
    """When they are taken, when others arrive, and in between; one of exactly that age stays."""
    clock = Clock()
    queue = HandOverQueue(10, max_age=5, clock=clock)
    queue.put([heard(rssi=0)])
    clock.now = 5.0
    queue.put([heard(rssi=5)])
    assert len(queue) == 2
    clock.now = 5.1
    queue.expire()
    assert len(queue) == 1
    clock.now = 10.1
    queue.put([heard(rssi=10)])
    assert len(queue) == 1
    clock.now = 20.0
    assert rssis(queue) == []
    assert queue.dropped == {TOO_OLD: 3}


def test_lossless_queue_waits_for_its_reader() -> None:
    """It drops nothing, whatever the age; `put` does not hang after the end."""
    clock = Clock()
    queue = HandOverQueue(1, max_age=0, lossless=True, clock=clock)
    batches = [[heard(rssi=10 * number), heard(rssi=10 * number + 1)] for number in range(3)]
    writer = threading.Thread(target=lambda: [queue.put(batch) for batch in batches])
    writer.start()
    taken = [advertisement.rssi for count in (1, 1, 2) for _, _, advertisement in queue.take(count, 60)]
    assert taken == [0, 1, 10, 11]
    queue.end()
    writer.join(60)
    assert not writer.is_alive()
    assert queue.dropped == {}


class Broker:
    """Stands for client and broker: a test decides the outcome of each publish."""

    def __init__(self) -> None:
        self.connected = True
        self.settings = MqttSettings()
        self.receipts: list[Receipt] = []
        self.topics: list[str] = []

    def publish(self, topic: str, payload: bytes, *, qos: int) -> Receipt:
        receipt = Receipt(threading.Condition(), topic=topic.encode(), qos=qos)
        self.receipts.append(receipt)
        self.topics.append(topic)
        return receipt

    def decide(self, *outcomes: Outcome, reason: str = "") -> None:
        """Give the first publishes without an outcome these outcomes."""
        waiting = [receipt for receipt in self.receipts if receipt.outcome is None]
        for receipt, outcome in zip(waiting, outcomes, strict=False):
            receipt.outcome, receipt.reason = outcome, reason


def deliver(broker: Broker, qos: int, clock: Clock, *topics: str, max_age: float = 5.0) -> Delivery:
    """Send a message to each topic."""
    delivery = Delivery(broker, qos=qos, max_age=max_age, clock=clock)  # type: ignore[arg-type]
    for topic in topics:
        delivery.send((clock.now, topic, b""))
    return delivery


def test_message_without_an_acknowledgement_is_not_published() -> None:
    """What is not acknowledged when the client is closed is lost at shutdown."""
    broker = Broker()
    delivery = deliver(broker, 1, Clock(), "a", "b", "c")
    broker.decide(Outcome.ACKNOWLEDGED)
    delivery.settle()
    assert (delivery.published, len(delivery)) == (1, 2)
    broker.decide(Outcome.LOST)
    delivery.abandon()
    assert (delivery.published, delivery.dropped, len(delivery)) == (1, {SHUTDOWN: 2}, 0)


def test_message_is_logged_as_published_once_it_is_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, and not when it is handed to the client."""
    broker = Broker()
    with caplog.at_level(logging.DEBUG, "mqttkit"):
        delivery = deliver(broker, 1, Clock(), "a", "b")
        delivery.settle()
        assert "published" not in caplog.text
        broker.decide(Outcome.ACKNOWLEDGED)
        delivery.settle()
    assert caplog.messages == ["published a"]


@pytest.mark.parametrize(("later", "sent_again"), [(5.0, True), (5.1, False)])
def test_lost_message_is_sent_again_up_to_the_maximum_age(later: float, sent_again: bool) -> None:
    """In order, before others; an older one is counted."""
    broker, clock = Broker(), Clock()
    delivery = deliver(broker, 1, clock, "a", "b")
    broker.decide(Outcome.LOST, Outcome.LOST)
    clock.now = later
    delivery.settle()
    assert delivery.send_again() == sent_again
    assert broker.topics[2:] == (["a", "b"] if sent_again else [])
    assert delivery.dropped == ({} if sent_again else {TOO_OLD: 2})


def test_message_that_the_client_does_not_accept_yet_is_sent_again() -> None:
    """Unlike one that no connection can carry."""
    broker = Broker()
    delivery = deliver(broker, 1, Clock(), "a", "b")
    broker.decide(Outcome.DROPPED, reason="not connected")
    broker.decide(Outcome.DROPPED, reason="larger than MQTT allows")
    delivery.settle()
    assert delivery.send_again()
    assert broker.topics == ["a", "b", "a"]
    assert delivery.dropped == {"larger than MQTT allows": 1}


def test_room_is_bounded_and_needs_a_connection() -> None:
    """Half of what the client's queue holds, so that the client never drops a message."""
    broker = Broker()
    broker.settings = MqttSettings(limits=LimitSettings(max_queued_messages=6))
    delivery = deliver(broker, 1, Clock(), "a", "b")
    assert delivery.room == 1
    broker.connected = False
    assert delivery.room == 0


@pytest.mark.parametrize(("max_age", "room"), [(5.0, 0), (float("inf"), 500)])
def test_a_broker_that_lags_gets_nothing_more_until_it_answers(max_age: float, room: int) -> None:
    """What it has not read would be old when it does; an unpaced replay has no age."""
    broker, clock = Broker(), Clock()
    broker.settings = MqttSettings(limits=LimitSettings(max_queued_messages=1_002))
    delivery = deliver(broker, 1, clock, "a", max_age=max_age)
    clock.now = LAG
    assert delivery.room == 500
    clock.now = LAG + 0.1
    assert delivery.room == room
    broker.decide(Outcome.ACKNOWLEDGED)
    delivery.settle()
    assert delivery.room == 501


def test_probe_at_qos_1_shows_a_denial_at_qos_0(caplog: pytest.LogCaptureFixture) -> None:
    """The first message and one a minute are probes; messages after a denied one count as denied."""
    broker, clock = Broker(), Clock()
    delivery = deliver(broker, 0, clock, "a", "b")
    assert [receipt.qos for receipt in broker.receipts] == [1, 0]
    broker.decide(Outcome.DENIED, Outcome.SENT, reason="Not authorized")
    delivery.settle()
    assert (delivery.published, delivery.dropped) == (0, {DENIED: 2})
    assert "the broker denies publishing to a: Not authorized" in caplog.text
    clock.now = PROBE_SECONDS - 0.1
    delivery.send((clock.now, "c", b""))
    clock.now = PROBE_SECONDS
    delivery.settle()
    delivery.send((clock.now, "d", b""))
    assert [receipt.qos for receipt in broker.receipts[2:]] == [0, 1]
    broker.decide(Outcome.SENT, Outcome.ACKNOWLEDGED)
    delivery.settle()
    delivery.send((clock.now, "e", b""))
    broker.decide(Outcome.SENT)
    delivery.settle()
    assert (delivery.published, delivery.dropped) == (2, {DENIED: 3})


def test_totals_add_up_and_name_every_loss() -> None:
    """A filtered advertisement is not a loss; one without an outcome waits."""
    totals = ScanTotals(10, 5, Counter({"too old": 3, "denied by the broker": 1}), Counter({"min_rssi": 4}))
    assert (totals.lost, totals.waiting) == (4, 1)
    assert str(totals) == (
        "10 scanned, 5 published (sent without acknowledgement), 4 lost (3 too old, 1 denied by the broker), 1 waiting,"
        " rejected before publishing: 4 min_rssi"
    )
    assert str(ScanTotals(1, 1, acknowledged=True)) == "1 scanned, 1 published (acknowledged), 0 lost"


def test_a_loss_is_logged_when_it_starts_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """At ERROR, each cause separately, with the count since its last line."""
    losses = LossLog()
    losses.report({"too old": 2}, 0.0)
    losses.report({"too old": 5, "denied": 1}, 1.0)
    losses.report({"too old": 9, "denied": 1}, REPEAT_SECONDS)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "2 advertisements lost: too old"),
        (logging.ERROR, "1 advertisements lost: denied"),
        (logging.ERROR, "7 advertisements lost: too old"),
    ]


def test_stop_before_run_is_not_forgotten() -> None:
    """A signal that comes while the connection is being made ends the scan that begins after it."""
    with MqttClient(MqttSettings()) as client, open_source(ScannerSettings(source="simulated")) as source:
        publisher = ScanPublisher(client, PublisherSettings(), "s")
        publisher.stop()
        runner = threading.Thread(target=publisher.run, args=(source,))
        runner.start()
        runner.join(60)
        ended = not runner.is_alive()
        publisher.stop()
        runner.join()
    assert ended
