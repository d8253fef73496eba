"""Advertisements: AD structures, the JSON form, and what hostile devices send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import AdvertisementError
from mqttkit.scanner.advertisement import (
    Advertisement,
    expand_uuid,
    format_timestamp,
    manufacturer_fields,
    normalise_mac,
    normalise_uuid,
    parse_ad_structures,
    parse_company,
    parse_timestamp,
    printable,
)

CAPTURE = Path("examples/captures/adverts.jsonl")
LINES: list[dict[str, Any]] = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
OWN_FIELDS = (
    "mac_address",
    "addr_type",
    "rssi",
    "local_name",
    "manufacturer_data",
    "service_data",
    "service_uuids",
    "raw_ad",
)

uuids = st.binary(min_size=16, max_size=16).map(expand_uuid)
advertisements = st.builds(
    Advertisement,
    mac_address=st.binary(min_size=6, max_size=6).map(lambda address: address.hex(":").upper()),
    address_type=st.sampled_from(["public", "random"]),
    rssi=st.none() | st.integers(-127, 126),
    timestamp=st.integers(0, 253_402_300_799_000).map(lambda milliseconds: milliseconds / 1000),
    local_name=st.none() | st.text(),
    manufacturer_data=st.dictionaries(
        st.integers(0, 0xFFFF), st.lists(st.binary(), min_size=1, max_size=3).map(tuple), max_size=3
    ),
    service_data=st.dictionaries(uuids, st.binary(), max_size=3),
    service_uuids=st.lists(uuids, unique=True, max_size=3).map(tuple),
    tx_power=st.none() | st.integers(-127, 127),
    connectable=st.none() | st.booleans(),
)


def parse(hexadecimal: str) -> Advertisement:
    """Parse AD structures with a fixed address and time."""
    return Advertisement.from_raw(bytes.fromhex(hexadecimal), mac_address="AA:BB:CC:DD:EE:FF", timestamp=0.0)


@pytest.mark.parametrize("line", LINES, ids=range(1, len(LINES) + 1))
def test_each_line_of_the_capture_agrees_with_its_own_fields(line: dict[str, Any]) -> None:
    """What is parsed from AD structures or from fields equals every field that the line gives."""
    parsed = Advertisement.from_json(line).to_json()
    given_fields = {name: line[name] for name in OWN_FIELDS if name in line}
    assert {name: parsed.get(name) for name in given_fields} == given_fields


def test_the_fields_of_one_company_are_all_kept() -> None:
    """Of two manufacturer fields of one company none is lost, here and in the JSON form."""
    heard = parse("05ff4c000102" + "04ff4c0003" + "04ff590009")
    assert heard.manufacturer_data == {0x004C: (b"\1\2", b"\3"), 0x0059: (b"\t",)}
    assert manufacturer_fields(heard) == ({"4c00": "03", "5900": "09"}, [{"4c00": "0102"}])
    assert Advertisement.from_json(heard.to_json() | {"raw_ad": None}).manufacturer_data == heard.manufacturer_data


def test_service_uuids_of_every_width_become_128_bits() -> None:
    """16, 32 and 128-bit lists, complete or not, in the order heard, each once."""
    heard = parse("03030f18" + "05020f180a18" + "050578563412" + "1107" + bytes(range(16)).hex())
    assert heard.service_uuids == (
        "0000180f-0000-1000-8000-00805f9b34fb",
        "0000180a-0000-1000-8000-00805f9b34fb",
        "12345678-0000-1000-8000-00805f9b34fb",
        "0f0e0d0c-0b0a-0908-0706-050403020100",
    )


def test_service_data_of_every_width_is_kept() -> None:
    """Service data under 16, 32 and 128-bit UUIDs, empty data too."""
    heard = parse("0416d2fc40" + "062078563412aa" + "1121" + bytes(range(16)).hex())
    assert heard.service_data == {
        "0000fcd2-0000-1000-8000-00805f9b34fb": b"\x40",
        "12345678-0000-1000-8000-00805f9b34fb": b"\xaa",
        "0f0e0d0c-0b0a-0908-0706-050403020100": b"",
    }


@pytest.mark.parametrize(
    ("hexadecimal", "name"),
    [
        ("03084142", "AB"),
        ("03084142040943 4445", "CDE"),
        ("0409434445 03084142", "CDE"),
        ("0409410342", "A\x03B"),
        ("040941ff42", "A\ufffdB"),
        ("0109", ""),
        ("020106", None),
    ],
)
def test_the_local_name_is_valid_text(hexadecimal: str, name: str | None) -> None:
    """The complete name goes before the shortened one; broken UTF-8 is replaced; control characters stay."""
    heard = parse(hexadecimal)
    assert heard.local_name == name
    assert json.loads(json.dumps(heard.to_json())).get("local_name") == name


def test_a_printed_name_cannot_steer_the_terminal() -> None:
    """Padding is cut and control characters are replaced, those that turn the writing direction too."""
    assert printable("Room\x1b[2J\x9b\u202ex\0\0") == "Room\ufffd[2J\ufffd\ufffdx"


@pytest.mark.parametrize("hexadecimal", ["", "00", "05", "05ff4c", "02ff4c", "0416d2", "03", "0216d2", "010a"])
def test_structures_that_are_cut_short_are_left_out(hexadecimal: str) -> None:
    """No data, no error, and what came before them stays."""
    heard = parse("020a04" + hexadecimal)
    assert (heard.tx_power, heard.manufacturer_data, heard.service_data) == (4, {}, {})


def test_a_length_of_zero_ends_the_significant_part() -> None:
    """What follows the zero is padding, whatever it looks like (Core 5.4, Vol 3, Part C, 11)."""
    assert parse_ad_structures(bytes.fromhex("02010600020a04")) == [(1, b"\x06")]


def test_rssi_127_is_unknown_and_so_are_reserved_values() -> None:
    """127 means that the controller has none, from JSON too; -128 dBm means nothing, of transmit power either."""
    for rssi in (127, -128):
        heard = Advertisement.from_raw(b"\x02\x0a\x80", mac_address="AA:BB:CC:DD:EE:FF", timestamp=0.0, rssi=rssi)
        assert (heard.rssi, heard.tx_power) == (None, None)
    assert Advertisement.from_json({"mac_address": "AA:BB:CC:DD:EE:FF", "rssi": 127}).rssi is None


@given(st.binary(max_size=300))
def test_any_bytes_parse_and_survive_json(raw: bytes) -> None:
    """Parsing arbitrary AD structures never raises, and their JSON form reads back as the same value."""
    heard = Advertisement.from_raw(raw, mac_address="AA:BB:CC:DD:EE:FF", timestamp=1.5)
    assert Advertisement.from_json(json.loads(json.dumps(heard.to_json()))) == heard


@given(advertisements)
def test_the_json_form_loses_nothing(heard: Advertisement) -> None:
    """An advertisement without AD structures reads back as the same value."""
    assert Advertisement.from_json(json.loads(json.dumps(heard.to_json()))) == heard


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["4c00", "aa", "180f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("4c00"), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Advertisement.__slots__, *OWN_FIELDS]), json_values) | json_values)
def test_any_json_value_parses_or_raises_one_error(value: object) -> None:
    """Nothing but AdvertisementError comes out, and what is read can be written as UTF-8."""
    try:
        heard = Advertisement.from_json(value)
    except AdvertisementError:
        return
    assert json.loads(json.dumps(heard.to_json(), ensure_ascii=False).encode()) == heard.to_json()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "expected a JSON object, got []"),
        ({"mac_address": "AA:BB"}, "'AA:BB' is not a MAC address such as AA:BB:CC:DD:EE:FF"),
        ({"mac_address": 5}, "mac_address is not a string: 5"),
        ({"addr_type": "other"}, "addr_type is not one of public, random: 'other'"),
        ({"rssi": -200}, "rssi is not a whole number of dBm in range: -200"),
        ({"rssi": True}, "rssi is not a whole number of dBm in range: True"),
        ({"connectable": 1}, "connectable is neither true nor false: 1"),
        ({"raw_ad": "0"}, "raw_ad is not hex: '0'"),
        ({"raw_ad": "zz" * 60}, "raw_ad is not hex: 'zzzzzzzz"),
        ({"timestamp": "noon"}, "timestamp 'noon' is not a time such as 2026"),
        ({"timestamp": -1}, "timestamp is not a time such as 2026"),
        ({"service_uuids": "180f"}, "service_uuids is not a list: '180f'"),
        ({"service_uuids": [1]}, "service_uuids contains a value that is not a UUID: 1"),
        ({"service_uuids": ["18"]}, "'18' is not a 16, 32 or 128-bit UUID"),
        ({"service_data": []}, "service_data is not an object: []"),
        ({"manufacturer_data": {"4c": ""}}, "company '4c' is not two little-endian bytes in hex"),
        ({"manufacturer_data_earlier": [3]}, "manufacturer_data_earlier contains a value that is not an object: 3"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields: object, message: str) -> None:
    """The error says which field, and shows its value, shortened."""
    with pytest.raises(AdvertisementError) as caught:
        Advertisement.from_json(fields)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 150


def test_a_line_without_address_gets_one_that_stays() -> None:
    """The same device name, the same made-up random static address; another name, another address."""
    first, again, other = (
        Advertisement.from_json({"device": name, "rssi": rssi}) for name, rssi in (("A", -1), ("A", -2), ("B", -1))
    )
    assert first.mac_address == again.mac_address != other.mac_address
    assert first.address_type == "random"
    assert int(first.mac_address[:2], 16) >= 0xC0


@pytest.mark.parametrize("text", ["2026-01-11T10:30:45.123Z", "1999-12-31T23:59:59.999Z", "0999-01-01T00:00:00.000Z"])
def test_a_time_reads_back(text: str) -> None:
    """Milliseconds survive the way through a float."""
    assert format_timestamp(parse_timestamp(text)) == text


def test_a_time_may_have_a_zone_or_none() -> None:
    """None is UTC; a number is seconds since 1970."""
    assert parse_timestamp("2026-01-11T11:30:45+01:00") == parse_timestamp("2026-01-11T10:30:45")
    assert Advertisement.from_json({"timestamp": 12.5}).timestamp == 12.5
    assert Advertisement.from_json({}, timestamp=7.0).timestamp == 7.0


def test_spellings_of_addresses_and_uuids_come_down_to_one() -> None:
    """Dashes and lower case in addresses, 0x and upper case in UUIDs; a company is in air order."""
    assert normalise_mac("aa-bb-cc-dd-ee-0f") == "AA:BB:CC:DD:EE:0F"
    assert normalise_uuid("0x180F") == "0000180f-0000-1000-8000-00805f9b34fb"
    assert normalise_uuid("0F0E0D0C-0B0A-0908-0706-050403020100") == "0f0e0d0c-0b0a-0908-0706-050403020100"
    assert parse_company("4C00") == 0x004C


@pytest.mark.parametrize("rssi", [-127, 126])
def test_the_range_of_an_rssi_includes_its_bounds(rssi: int) -> None:
    """-127 to 126 dBm; one more or less is an error."""
    assert Advertisement.from_json({"rssi": rssi}).rssi == rssi
    with pytest.raises(AdvertisementError, match="rssi"):
        Advertisement.from_json({"rssi": rssi + (2 if rssi > 0 else -1)})


@pytest.mark.parametrize("timestamp", [2**38, True, 1e300])
def test_a_time_out_of_range_is_an_error(timestamp: float) -> None:
    """2^38 seconds is the first that is too large."""
    with pytest.raises(AdvertisementError, match="timestamp is not a time"):
        Advertisement.from_json({"timestamp": timestamp})
    for inside in (0, 2**38 - 1):
        assert Advertisement.from_json({"timestamp": inside}, timestamp=7.0).timestamp == inside


def test_an_advertisement_does_not_change_and_has_the_time_zero_by_default() -> None:
    """It is frozen."""
    device = Advertisement.from_json({})
    assert device.timestamp == 0.0
    with pytest.raises(AttributeError):
        device.rssi = 1  # type: ignore[misc]


def test_lists_of_32_bit_uuids_are_read_complete_or_not() -> None:
    """A rest shorter than a UUID is ignored."""
    expected = ("12345678-0000-1000-8000-00805f9b34fb",)
    assert parse("050478563412").service_uuids == parse("050578563412").service_uuids == expected
    assert parse("07047856341299aa").service_uuids == expected
    assert parse("04020f1899").service_uuids == ("0000180f-0000-1000-8000-00805f9b34fb",)
    assert parse("0306" + "0f18").service_uuids == ()
    assert parse("1106" + bytes(range(16)).hex()).service_uuids == ("0f0e0d0c-0b0a-0908-0706-050403020100",)


def test_transmit_power_is_the_first_byte() -> None:
    """Signed; further bytes are ignored."""
    assert parse("030af801").tx_power == -8


def test_the_address_of_a_line_without_one_depends_on_the_device_then_the_name_then_all_fields() -> None:
    """The order of the fields does not matter; all 46 bits are used."""

    def address(**fields: object) -> str:
        return Advertisement.from_json(fields).mac_address

    assert address(device="A", local_name="x") == address(device="A", local_name="y")
    assert address(local_name="A", rssi=-1) == address(local_name="A", rssi=-2) == address(device="A")
    assert address(rssi=-1, tx_power=2) == address(tx_power=2, rssi=-1) != address(rssi=-1, tx_power=3)
    assert address(device="A") == "DE:0B:F8:8A:74:3C"


def test_an_error_shows_values_of_up_to_60_characters_completely() -> None:
    """A longer one ends in three dots."""
    for length, ending in ((58, "x'"), (59, "x...")):
        with pytest.raises(AdvertisementError) as caught:
            Advertisement.from_json({"raw_ad": "x" * length})
        assert str(caught.value).endswith(ending)
        assert len(str(caught.value)) == len("raw_ad is not hex: ") + 60


def test_a_payload_of_publish_scan_keeps_the_address_type() -> None:
    """The payload calls it `address_type`, a recording `addr_type`."""
    for name in ("address_type", "addr_type"):
        assert Advertisement.from_json({"mac_address": "AA:BB:CC:DD:EE:FF", name: "random"}).address_type == "random"


@pytest.mark.parametrize("text", ["", "180", "180f0", "1234567", "123456789", "180g", "0x", "0000180f-0000-1000-8000"])
def test_text_of_another_length_is_not_a_uuid(text: str) -> None:
    """A UUID has 4, 8 or 32 hexadecimal digits."""
    with pytest.raises(AdvertisementError, match="is not a 16, 32 or 128-bit UUID"):
        normalise_uuid(text)
