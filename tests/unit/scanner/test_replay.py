"""Recordings: what they hold, at which pace they are replayed, and how they can be broken."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import RecordingError, UsageError
from mqttkit.scan_publisher import format_advertisement
from mqttkit.scanner import Advertisement, hci, open_source
from mqttkit.scanner.recording import read_recording
from mqttkit.scanner.sources import replay as replay_source
from mqttkit.scanner.sources.replay import ReplaySource
from mqttkit.settings import ScannerSettings

CAPTURES = Path("examples/captures")
STREET = CAPTURES / "street-32-per-second.btsnoop"
ROOM = CAPTURES / "room-extended-adverts.btsnoop"
EPOCH = 0x00DCDDB30F2F8000


def legacy(*reports: tuple[int, int, bytes, bytes, int]) -> bytes:
    """Build an H4 event of legacy reports: (event type, address type, address, data, RSSI byte)."""
    body = b"".join(
        bytes([kind, address_type]) + address + bytes([len(data)]) + data + bytes([rssi])
        for kind, address_type, address, data, rssi in reports
    )
    return bytes([4, 0x3E, len(body) + 2, 2, len(reports)]) + body


def extended(kind: int, data: bytes, *, sid: int = 0, address_type: int = 1, address: bytes = b"123456") -> bytes:
    """Build an H4 event of one extended report."""
    head = struct.pack("<HB6sBBBbbHB6sB", kind, address_type, address, 1, 2, sid, 127, -60, 0, 0, bytes(6), len(data))
    return bytes([4, 0x3E, len(head) + len(data) + 2, 0x0D, 1]) + head + data


def btsnoop(*packets: bytes, link: int = 1002) -> bytes:
    """Build a btsnoop file with a packet each tenth of a second from 1970 on."""
    records = (
        struct.pack(">IIIIq", len(packet), len(packet), 3, 0, EPOCH + number * 100_000) + packet
        for number, packet in enumerate(packets)
    )
    return b"btsnoop\0" + struct.pack(">II", 1, link) + b"".join(records)


def read(path: Path) -> list[Advertisement]:
    """Read a whole recording."""
    return list(read_recording(str(path)))


def test_the_legacy_capture_is_read_whole() -> None:
    """412 reports of 36 devices in 12.9 s, as its description says."""
    heard = read(STREET)
    assert (len(heard), len({one.mac_address for one in heard})) == (412, 36)
    assert heard[-1].timestamp - heard[0].timestamp == pytest.approx(12.855736)
    assert all(one.rssi is not None and -120 < one.rssi < 0 and one.raw is not None for one in heard)


def test_the_extended_capture_is_read_whole() -> None:
    """460 extended reports of 28 devices."""
    heard = read(ROOM)
    assert (len(heard), len({one.mac_address for one in heard})) == (460, 28)
    assert any(one.manufacturer_data or one.service_data for one in heard)


def test_the_json_capture_is_read_whole() -> None:
    """Each of the 728 lines is one advertisement, a twentieth of a second apart."""
    heard = read(CAPTURES / "adverts.jsonl")
    assert len(heard) == 728
    assert heard[-1].timestamp == pytest.approx(727 * 0.05)


def test_the_events_of_the_json_capture_agree_with_its_lines() -> None:
    """Each raw HCI event, parsed as one, gives the line's address, its type, RSSI and AD structures."""
    count = 0
    for line in map(json.loads, (CAPTURES / "adverts.jsonl").read_text().splitlines()):
        if "raw_hci" in line:
            packet = bytes.fromhex(line["raw_hci"])
            packet = packet[:2] + bytes([len(packet) - 3]) + packet[3:]
            (heard,) = hci.read_packet(packet, 0.0, hci.Reassembly())
            assert (heard.mac_address, heard.address_type) == (line["mac_address"], line["addr_type"])
            assert (heard.rssi, heard.to_json()["raw_ad"]) == (line["rssi"], line["raw_ad"])
            count += 1
    assert count == 283


def test_an_event_may_hold_several_reports(tmp_path: Path) -> None:
    """Each is an advertisement with its own address type, RSSI and kind."""
    path = tmp_path / "many.btsnoop"
    path.write_bytes(
        btsnoop(
            b"\x01\x03\x0c\x00",
            legacy(
                (0, 0, b"123456", b"\x02\x01\x06", 0xC4),
                (3, 1, b"abcdef", b"", 127),
                (4, 2, b"ABCDEF", b"", 0),
            ),
        )
    )
    first, second, third = read(path)
    assert (first.mac_address, first.address_type, first.rssi, first.connectable) == (
        "36:35:34:33:32:31",
        "public",
        -60,
        True,
    )
    assert (second.rssi, second.connectable, second.address_type) == (None, False, "random")
    assert (third.rssi, third.connectable, third.address_type) == (0, None, "public")
    assert first.timestamp == pytest.approx(0.1)


def test_fragments_of_an_extended_advertisement_are_joined(tmp_path: Path) -> None:
    """By device and advertising set; one cut short by the controller keeps what came."""
    path = tmp_path / "fragments.btsnoop"
    more, truncated = 1 << 5, 2 << 5
    path.write_bytes(
        btsnoop(
            extended(more, b"\x05\x09AB"),
            extended(1, b"\x03\x09xy", sid=1),
            extended(0, b"CD"),
            extended(truncated, b"\x03\x09zz\x09"),
            extended(0, b"", address_type=0xFF),
        )
    )
    assert [(one.local_name, one.connectable) for one in read(path)] == [
        ("xy", True),
        ("ABCD", False),
        ("zz", False),
    ]


def test_fragments_that_never_end_grow_no_memory() -> None:
    """Neither of one device nor of many."""
    reassembly = hci.Reassembly()
    for _ in range(20):
        list(hci.read_packet(extended(1 << 5, bytes(200)), 0.0, reassembly))
    for number in range(1000):
        address = number.to_bytes(6, "big")
        list(hci.read_packet(extended(1 << 5, bytes(200), address=address), 0.0, reassembly))
    assert sum(map(len, reassembly._parts.values())) < 256 * 1650


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x contains no advertisements"),
        (b"\n \n", "x contains no advertisements"),
        (
            b'{"mac_address": "AA:BB:CC:DD:EE:FF"}\n{"rssi": "strong"}\n',
            "x:2: not an advertisement: rssi is not a whole",
        ),
        (b'{"mac_address": "AA:BB:CC', "x:1: not an advertisement: Unterminated string"),
        (b"[" * 100_000, "x:1: not an advertisement: "),
        (b"\xff\xfe", "x:1: not an advertisement: 'utf-8' codec"),
        (b"btsnoop\0\0\0", "x: byte 8: the file ends in the middle"),
        (btsnoop(link=1001), "x: btsnoop version 1, link 1001; only version 1 and link 1002 (H4)"),
        (btsnoop(b"\x04\x0f\x00"), "x contains no advertisements"),
        (btsnoop(legacy((0, 0, b"123456", b"", 1)))[:-1], "x: byte 16: the file ends in the middle"),
        (btsnoop(b"") + b"\0\0\0", "x: byte 40: the file ends in the middle"),
        (btsnoop(b"") + struct.pack(">IIIIq", 1, 2, 0, 0, 0), "x: byte 40: a record claims 2 of 1 bytes"),
        (btsnoop(b"") + b"\xff" * 24, "x: byte 40: a record claims 4294967295 of"),
        (btsnoop(legacy((0, 0, b"123456", b"", 1)) + b"\0"), "x: byte 16: an event announces 12 bytes and contains 13"),
        (btsnoop(b"\x04\x3e\x02\x02\x01"), "x: byte 16: a report is truncated"),
        (btsnoop(b"\x04\x3e\x02\x0d\x01"), "x: byte 16: a report is truncated"),
        (btsnoop(b"\x04\x3e\x01\x0d"), "x: byte 16: an event contains no reports"),
    ],
)
def test_a_broken_recording_is_told_with_its_place(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first advertisement is passed on."""
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        open_source(ScannerSettings(source="replay:x", strict=True))
    assert str(caught.value).startswith(message)


def test_a_file_named_so_that_is_no_btsnoop_is_told(tmp_path: Path) -> None:
    """Its first bytes decide, so it is tried as JSON lines; the error names both."""
    path = tmp_path / "x.btsnoop"
    path.write_bytes(b"garbage")
    with pytest.raises(RecordingError, match="; it is not a btsnoop file either"):
        open_source(ScannerSettings(source=f"replay:{path}"))


def test_a_recording_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its name and the system's reason; a directory too."""
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(RecordingError, match=f"{path.name}: {reason}"):
            ReplaySource(str(path))


any_event = st.binary(max_size=200).map(lambda data: b"\x04\x3e" + bytes([len(data)]) + data)


@given(content=st.binary(max_size=200) | st.lists(any_event, max_size=3).map(lambda events: btsnoop(*events)))
def test_any_file_is_read_or_raises_one_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Events of any bytes, and a file of any bytes, raise nothing but RecordingError."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with contextlib.suppress(RecordingError):
        assert all(one.mac_address for one in read(path))


def test_published_payloads_are_a_recording(tmp_path: Path) -> None:
    """A line each, they read back with every field that was published."""
    path = tmp_path / "payloads.jsonl"
    recorded = [*read(STREET), *read(CAPTURES / "adverts.jsonl")]
    path.write_bytes(b"".join(format_advertisement(one, "scanner-01", 1) + b"\n" for one in recorded))
    for one, again in zip(recorded, read(path), strict=True):
        published = {name: getattr(one, name) for name in PUBLISHED}
        assert {name: getattr(again, name) for name in PUBLISHED} == published
        assert again.timestamp == pytest.approx(one.timestamp, abs=0.001)


PUBLISHED = ("mac_address", "rssi", "local_name", "manufacturer_data", "service_data", "service_uuids", "tx_power")


def lines(*timestamps: float) -> str:
    """Return a recording of one device with these time stamps."""
    return "".join(json.dumps({"mac_address": "AA:BB:CC:DD:EE:FF", "timestamp": at}) + "\n" for at in timestamps)


def offsets(source: ReplaySource, count: int) -> list[float]:
    """Return when the first advertisements are due, in seconds."""
    return [offset for offset, _ in itertools.islice(source.upcoming(), count)]


def test_the_pace_is_the_recorded_one_times_the_speed(tmp_path: Path) -> None:
    """A clock that went back, or that leaped for days, costs no time; nor does the seam of a loop."""
    path = tmp_path / "x"
    path.write_text(lines(1000, 1001, 1003, 500, 501, 1e9))
    assert offsets(ReplaySource(str(path)), 9) == [0, 1, 3, 3, 4, 4]
    assert offsets(ReplaySource(str(path), speed=2, loop=True), 8) == [0, 0.5, 1.5, 1.5, 2, 2, 2, 2.5]
    assert offsets(ReplaySource(str(path), speed=None, loop=True), 8) == [0] * 8


def test_time_passes_as_recorded_and_time_stamps_are_those_of_the_replay(tmp_path: Path) -> None:
    """Advertisements 50 ms apart leave no earlier than that, stamped with the clock of now."""
    path = tmp_path / "x"
    path.write_text(lines(0, 0.05, 0.1))
    begun, wall = time.monotonic(), time.time()
    with ReplaySource(str(path)) as source:
        stamps = [one.timestamp for one in source]
    assert time.monotonic() - begun >= 0.1
    assert all(stamp - wall > due - 0.01 for stamp, due in zip(stamps, (0, 0.05, 0.1), strict=True))


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_a_speed_that_cannot_be_is_refused(speed: float) -> None:
    """Zero, below zero, endless."""
    with pytest.raises(UsageError, match="speed"):
        ReplaySource(str(STREET), speed=speed)


def test_a_recording_too_long_to_keep_is_read_anew_each_time_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop gives the same advertisements as one that is kept in memory."""
    kept = [one.raw for one in itertools.islice(ReplaySource(str(STREET), speed=None, loop=True), 900)]
    monkeypatch.setattr(replay_source, "KEPT", 100)
    read_anew = [one.raw for one in itertools.islice(ReplaySource(str(STREET), speed=None, loop=True), 900)]
    assert read_anew == kept
    assert kept[:412] == kept[412:824]


def test_close_from_another_thread_ends_a_waiting_iteration(tmp_path: Path) -> None:
    """At once, though the next advertisement is an hour away; again it does no harm."""
    path = tmp_path / "x"
    path.write_text(lines(0, 3600))
    first = threading.Event()
    heard = []

    def iterate() -> None:
        for one in source:
            heard.append(one)
            first.set()

    with ReplaySource(str(path)) as source:
        thread = threading.Thread(target=iterate)
        thread.start()
        assert first.wait(60)
        source.close()
        source.close()
        thread.join(60)
    assert not thread.is_alive()
    assert len(heard) == 1
    assert not source.scanning


@pytest.mark.parametrize("source", ["replay", "replay:", "radio", "simulated:x"])
def test_a_source_that_there_is_not_is_told(source: str) -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="simulated or replay:FILE"):
        open_source(ScannerSettings(source=source))


VALID = '{"mac_address": "AA:BB:CC:DD:EE:FF", "rssi": -40}'


def test_an_invalid_line_of_a_replay_is_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others are replayed; the first error is logged with its line."""
    path = tmp_path / "room.jsonl"
    path.write_text(f'{VALID}\nnot JSON\n{VALID}\n{{"rssi": 999}}\n')
    source = f"replay:{path}"
    with open_source(ScannerSettings(source=source, speed=None)) as replay:
        assert len(list(replay)) == 2
        assert replay.dropped == {"malformed": 2}
    assert [record.getMessage().split(": not")[0] for record in caplog.records] == [
        f"skipping invalid records: {path}:2"
    ]
    with pytest.raises(RecordingError, match=":2: not an advertisement"):
        open_source(ScannerSettings(source=source, strict=True))


def test_an_invalid_event_of_a_btsnoop_file_is_skipped_and_counted(tmp_path: Path) -> None:
    """The events around it are replayed."""
    path = tmp_path / "room.btsnoop"
    good = legacy((0, 0, b"123456", b"", 0))
    path.write_bytes(btsnoop(good, b"\x04\x3e\x02\x02\x01", good))
    with open_source(ScannerSettings(source=f"replay:{path}", speed=None)) as replay:
        assert len(list(replay)) == 2
        assert replay.dropped == {"malformed": 1}
