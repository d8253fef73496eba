"""iBeacon and Eddystone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.decode.beacons import APPLE, EDDYSTONE, decode_eddystone, decode_ibeacon
from mqttkit.decode.reading import Reading
from mqttkit.scanner import Advertisement


def ibeacon(data: str) -> Reading | None:
    """Decode manufacturer data of Apple."""
    fields = {APPLE: (bytes.fromhex(data),)}
    return decode_ibeacon(Advertisement(mac_address="AA:BB:CC:DD:EE:FF", timestamp=0, manufacturer_data=fields))


def eddystone(data: bytes) -> Reading | None:
    """Decode service data of Eddystone."""
    return decode_eddystone(Advertisement(mac_address="AA:BB:CC:DD:EE:FF", timestamp=0, service_data={EDDYSTONE: data}))


def values(reading: Reading | None) -> dict[str, object]:
    """Return the values by quantity."""
    assert reading is not None
    return {value.quantity: value.value for value in reading.values}


def test_ibeacon_has_its_identifiers_and_its_power() -> None:
    """Numbers are big-endian; the power is signed."""
    assert values(ibeacon("0215d546df97475747efbe093e2dcbdd0c771536cdc9b5")) == {
        "uuid": "d546df97-4757-47ef-be09-3e2dcbdd0c77",
        "major": 5430,
        "minor": 52681,
        "measured_power": -75,
    }


@pytest.mark.parametrize("data", ["", "0215", "0216d546df97475747efbe093e2dcbdd0c771536cdc9b5", "1005031c0ba2b1"])
def test_other_data_of_apple_is_not_an_ibeacon(data: str) -> None:
    """Nor is a truncated one."""
    assert ibeacon(data) is None


def test_eddystone_telemetry_has_voltage_temperature_and_counters() -> None:
    """Temperature is 8.8 fixed point; the uptime counts tenths of a second."""
    found = values(eddystone(bytes.fromhex("20000bb8fe800000000a00000065")))
    assert found == {"voltage": 3.0, "temperature": -1.5, "advertisements": 10, "uptime": 10.1}
    absent = values(eddystone(bytes.fromhex("2000000080000000000a00000065")))
    assert absent == {"advertisements": 10, "uptime": 10.1}


def test_eddystone_url_is_expanded() -> None:
    """Scheme and endings are one byte each; a byte that no URL has is percent-encoded."""
    assert values(eddystone(b"\x10\xeb\x03goo\x00a\x07\x80"))["url"] == "https://goo.com/a.com%80"


def test_eddystone_uid_has_namespace_and_instance() -> None:
    """In hex."""
    found = values(eddystone(b"\x00\xeb" + bytes(range(16)) + b"\0\0"))
    assert found == {"power_at_0_m": -21, "namespace": "00010203040506070809", "instance": "0a0b0c0d0e0f"}


@given(st.binary(max_size=30))
def test_no_data_makes_a_decoder_fail(data: bytes) -> None:
    """Anything may be sent over the air."""
    for reading in (eddystone(data), ibeacon(data.hex()), ibeacon((b"\x02\x15" + data).hex())):
        assert reading is None or reading.values
