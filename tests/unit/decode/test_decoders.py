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
WITH_VALUES, WITH_THEENGS = 480, 510
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


def sensor(name: str | None = None, **fields: object) -> Advertisement:
    """Return an advertisement with these fields."""
    return Advertisement(mac_address="A4:C1:38:02:83:F4", timestamp=0, local_name=name, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("a4c1380283f400a22f5f0bf819", "temperature 16.2 °C, humidity 47 %, battery 95 %, voltage 3.064 V"),
        ("f4830238c1a4a9066911b60b58f90d", "temperature 17.05 °C, humidity 44.57 %, battery 88 %, voltage 2.998 V"),
        ("a4c1380283f4ff9c2f5f0bf819", "temperature -10.0 °C, humidity 47 %, battery 95 %, voltage 3.064 V"),
        ("d603fbfa7b6dfb1e26fd0b", "needs the firmware's format BTHome: this encrypted one is not decoded"),
    ],
)
def test_thermometers_with_other_firmware_are_decoded(data: str, text: str) -> None:
    """The first two are of the recorded advertisements."""
    heard = sensor(service_data={"0000181a-0000-1000-8000-00805f9b34fb": bytes.fromhex(data)})
    assert str(Decoders().decode(heard)) == text


def test_another_environmental_sensor_is_not_one_of_them() -> None:
    """0x181A is the service of all environmental sensors."""
    assert Decoders().decode(sensor(service_data={"0000181a-0000-1000-8000-00805f9b34fb": bytes(6)})) is None


def test_an_aranet_has_its_values_if_its_integration_is_switched_on() -> None:
    """A vector of Home Assistant's tests (Apache-2.0), and the same device without the integration."""
    pytest.importorskip("aranet4")
    data = bytes.fromhex("21000201000000018a02a501b1262259012c01e80088")
    reading = Decoders().decode(sensor("Aranet4 12345", manufacturer_data={0x0702: (data,)}))
    assert reading is not None
    assert (reading.decoder, reading.manufacturer) == ("aranet", "SAF Tehnika")
    assert str(reading) == (
        "carbon_dioxide 650 ppm, temperature 21.1 °C, pressure 990.5 hPa, humidity 34 %, battery 89 %"
    )
    silent = Decoders().decode(sensor("Aranet4 12345", manufacturer_data={0x0702: (b"\x01" + data[1:7],)}))
    assert silent is not None
    assert str(silent) == "needs Smart Home integration, switched on in the Aranet app"


def test_theengs_decoder_is_asked_last() -> None:
    """A plant sensor that no other decoder knows; what others know stays theirs."""
    pytest.importorskip("TheengsDecoder")
    from mqttkit.decode.theengs import open_parser

    decoders = Decoders(last=open_parser())
    for advertisement in recorded():
        decoders.decode(advertisement)
    assert decoders.counts.decoded >= WITH_THEENGS
    reading = decoders.decode(next(each for each in recorded() if each.mac_address == "F0:CA:F0:CA:02:01"))
    assert reading is not None
    assert reading.decoder == "theengs"
    assert {"temperature", "humidity", "moisture"} <= {value.quantity for value in reading.values}
    assert not any(value.quantity.startswith("tempf") for value in reading.values)
    thermometer_reading = decoders.decode(thermometer())
    assert thermometer_reading is not None
    assert thermometer_reading.decoder == "bthome_ble"


def test_theengs_decoder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed by the user."""
    from mqttkit.decode.theengs import open_parser
    from mqttkit.errors import MissingPart

    monkeypatch.setitem(sys.modules, "TheengsDecoder", None)
    with pytest.raises(MissingPart, match="Theengs Decoder is not installed"):
        open_parser()


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
