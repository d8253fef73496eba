"""The scan publisher's pure parts: payload, queue, totals."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import TopicError
from mqttkit.scan_publisher import DropOldestQueue, ScanPublisher, ScanTotals, format_advertisement
from mqttkit.scanner import open_source
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.settings import MqttSettings, PublisherSettings, ScannerSettings
from mqttkit.topics import check_scanner_id

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "mqttkit" / "data" / "captures"
SCHEMA = json.loads((ROOT / "docs" / "advertisement.schema.json").read_text())


def heard(**fields: object) -> Advertisement:
    """Return an advertisement with some of its fields given."""
    return Advertisement(**{"mac_address": "AA:BB:CC:DD:EE:FF", "rssi": -40, "timestamp": 1.5, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(path.name for path in CAPTURES.iterdir() if path.suffix != ".md"))
def test_every_real_advertisement_becomes_a_payload_of_the_schema(name: str) -> None:
    """Whatever was recorded from real devices is published as the JSON Schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    with open_source(ScannerSettings(source=f"replay:{CAPTURES / name}", speed=None)) as source:
        payloads = [json.loads(format_advertisement(advertisement, "scanner-01")) for advertisement in source]
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
    )
    assert json.loads(payload) == {
        "scanner_id": "scanner-01",
        "mac_address": "AA:BB:CC:DD:EE:FF",
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
    bare = json.loads(format_advertisement(heard(rssi=None), "s"))
    assert bare == {
        "scanner_id": "s",
        "mac_address": "AA:BB:CC:DD:EE:FF",
        "rssi": None,
        "timestamp": "1970-01-01T00:00:01.500Z",
        "manufacturer_data": {},
        "service_uuids": [],
        "local_name": None,
    }
    several = json.loads(format_advertisement(heard(manufacturer_data={0x88EC: (b"\x01", b"\x02")}), "s"))
    assert (several["manufacturer_data"], several["manufacturer_data_earlier"]) == ({"ec88": "02"}, [{"ec88": "01"}])


def test_hostile_names_are_valid_json() -> None:
    """Control characters, quotes and lone surrogates in a name give JSON that reads back."""
    for name in ('a"b\\c', "\x03\x1b[2J", "\u2028", "x\ufffd"):
        assert json.loads(format_advertisement(heard(local_name=name), "s"))["local_name"] == name


@pytest.mark.parametrize("scanner_id", ["", "a/b", "+", "a#", "a\0", "x" * 65])
def test_scanner_identifier_that_is_no_topic_level_is_refused(scanner_id: str) -> None:
    """An identifier that would change the topic's levels never gets that far."""
    with pytest.raises(TopicError):
        check_scanner_id(scanner_id)


def test_queue_drops_the_oldest_and_counts() -> None:
    """A full queue keeps the newest; nothing blocks."""
    queue = DropOldestQueue(3)
    for number in range(5):
        queue.put([heard(rssi=number)])
    kept = queue.take(0)
    assert kept is not None
    assert [advertisement.rssi for advertisement in kept] == [2, 3, 4]
    assert queue.dropped == 2
    queue.end()
    assert queue.take(0) is None


def test_lossless_queue_waits_for_its_reader() -> None:
    """An unpaced replay does not outrun the publisher, and does not hang when that has ended."""
    queue = DropOldestQueue(1, lossless=True)
    batches = [[heard(rssi=number)] for number in range(3)]
    writer = threading.Thread(target=lambda: [queue.put(batch) for batch in batches])
    writer.start()
    taken = [queue.take(5), queue.take(5)]
    assert [batch and batch[0].rssi for batch in taken] == [0, 1]
    queue.end()
    writer.join(5)
    assert not writer.is_alive()
    assert queue.dropped == 0


def test_totals_tell_every_loss_by_its_cause() -> None:
    """Losses add up and are named; what a filter withheld is no loss."""
    totals = ScanTotals(
        10, 6, Counter({"not connected": 3}), failed=Counter({"denied": 1}), withheld=Counter({"min_rssi": 4})
    )
    assert totals.lost == 4
    assert str(totals) == (
        "10 scanned, 6 published, 4 lost (3 not connected, 1 denied), withheld by filters: 4 min_rssi"
    )


def test_stop_before_run_is_not_forgotten() -> None:
    """A signal that comes while the connection is being made ends the scan that begins after it."""
    with MqttClient(MqttSettings()) as client, open_source(ScannerSettings(source="simulated")) as source:
        publisher = ScanPublisher(client, PublisherSettings(), "s")
        publisher.stop()
        runner = threading.Thread(target=publisher.run, args=(source,))
        runner.start()
        runner.join(10)
        ended = not runner.is_alive()
        publisher.stop()
        runner.join()
    assert ended
