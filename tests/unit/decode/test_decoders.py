"""All decoders, on advertisements of real devices."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

import mqttkit
from mqttkit.decode import Decoders, Reading, warn_if_incomplete
from mqttkit.scanner import Advertisement

CAPTURES = Path(mqttkit.__file__).parent / "data" / "captures"
WITH_VALUES = 480
"""Of the recorded advertisements, at least; the parsers know more with each release."""


def recorded() -> list[Advertisement]:
    """Return the recorded advertisements; each line of the file names the project it is from, and its licence."""
    lines = (CAPTURES / "adverts.jsonl").read_text().splitlines()
    return [Advertisement.from_json(json.loads(line), timestamp=float(number)) for number, line in enumerate(lines)]


def thermometer(**fields: object) -> Advertisement:
    """Return a BTHome thermometer (vector of bthome-ble, MIT)."""
    service = "0000fcd2-0000-1000-8000-00805f9b34fb"
    data = {service: bytes.fromhex("4002ca0903bf13")}
    return Advertisement(mac_address="AA:BB:CC:DD:EE:FF", timestamp=0, **{"service_data": data, **fields})  # type: ignore[arg-type]


def test_most_recorded_advertisements_have_values() -> None:
    """Of sensors of twenty makers; no parser's exception gets out."""
    pytest.importorskip("bthome_ble")
    pytest.importorskip("switchbot")
    decoders = Decoders()
    for advertisement in recorded():
        decoders.decode(advertisement)
    assert decoders.counts.advertisements == 728
    assert decoders.counts.decoded >= WITH_VALUES
    assert decoders.counts.needs["a bind key"] > 20


def test_a_reading_has_quantities_units_and_device_classes() -> None:
    """As Home Assistant names them."""
    pytest.importorskip("bthome_ble")
    reading = Decoders().decode(thermometer())
    assert reading is not None
    assert {value[:4] for value in reading.values} == {
        ("temperature", 25.06, "°C", "temperature"),
        ("humidity", 50.55, "%", "humidity"),
    }
    assert str(reading) == "temperature 25.06 °C, humidity 50.55 %"


def test_values_of_an_earlier_advertisement_are_not_repeated() -> None:
    """Each reading has only what this advertisement contained."""
    pytest.importorskip("bthome_ble")
    decoders = Decoders()
    decoders.decode(thermometer())
    later = decoders.decode(thermometer(service_data={"0000fcd2-0000-1000-8000-00805f9b34fb": bytes.fromhex("400161")}))
    assert later is not None
    assert [value.quantity for value in later.values] == ["battery"]


def test_an_encrypted_device_needs_its_key() -> None:
    """With the key it has values (vector of the BTHome specification)."""
    pytest.importorskip("bthome_ble")
    data = {"0000fcd2-0000-1000-8000-00805f9b34fb": bytes.fromhex("41a47266c95f730011223378237214")}
    advertisement = Advertisement(mac_address="54:48:E6:8F:80:A5", timestamp=0, service_data=data)
    without = Decoders().decode(advertisement)
    assert without is not None
    assert (without.values, without.needs, str(without)) == ((), "a bind key", "needs a bind key")
    key = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
    reading = Decoders({"54:48:E6:8F:80:A5": key}).decode(advertisement)
    assert reading is not None
    assert str(reading) == "temperature 25.06 °C, humidity 50.55 %"


def test_an_exception_of_a_parser_is_counted_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The advertisement counts as not decoded."""

    def fail(_: Advertisement) -> Reading | None:
        raise IndexError("short")

    monkeypatch.setitem(sys.modules["mqttkit.decode.decoders"]._OWN, "ibeacon", fail)
    decoders = Decoders()
    apple = Advertisement(mac_address="AA:BB:CC:DD:EE:FF", timestamp=0, manufacturer_data={0x004C: (b"\x02\x15",)})
    assert [decoders.decode(apple), decoders.decode(apple)] == [None, None]
    assert decoders.counts.failed == {"ibeacon": 2}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_without_parsers_beacons_are_decoded_and_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python 3.10 has no current parsers."""
    for module in ("bthome_ble", "switchbot", "switchbot.adv_parser"):
        monkeypatch.setitem(sys.modules, module, None)
    assert Decoders().decode(thermometer()) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    warn_if_incomplete()
    assert "pip install 'mqttkit[decode]'" in caplog.text


def test_only_matching_parsers_are_imported() -> None:
    """A beacon needs none of them."""
    before = set(sys.modules)
    apple = Advertisement(
        mac_address="AA:BB:CC:DD:EE:FF",
        timestamp=0,
        service_data={"0000feaa-0000-1000-8000-00805f9b34fb": b"\x00\xeb" + bytes(16)},
    )
    assert Decoders().decode(apple) is not None
    assert set(sys.modules) == before
