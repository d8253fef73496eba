"""bluepy's real Scanner over a scripted stand-in for its helper program."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bluepy import btle

from mqttkit.errors import AdapterMissing, AdapterStuck, HelperMissing, PermissionMissing, UsageError
from mqttkit.scan_publisher import format_advertisement
from mqttkit.scanner import Advertisement, open_source
from mqttkit.scanner.recording import read_recording
from mqttkit.scanner.sources.bluepy import BluepySource
from mqttkit.scanner.sources.machine import Machine
from mqttkit.settings import ScannerSettings
from tests.support import bluepy_helper as fake
from tests.support.bluepy_helper import Helper, Run, report

pytestmark = pytest.mark.system

STREET = "examples/captures/street-32-per-second.btsnoop"
ADDRESS = "A4:C1:38:37:27:62"
Install = Callable[..., Helper]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a stand-in in the place of bluepy's helper."""

    def put(*runs: Run) -> Helper:
        helper = fake.install(tmp_path / "helper", *runs)
        monkeypatch.setattr(btle, "helperExe", str(helper.path))
        return helper

    return put


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with the adapter hci0."""
    (tmp_path / "class" / "hci0").mkdir(parents=True)
    return Machine(sys_class=tmp_path / "class")


def first(source: BluepySource, count: int) -> list[Advertisement]:
    """Scan until so many advertisements were heard."""
    with source:
        assert source.scanning
        heard = list(itertools.islice(source, count))
    assert not source.scanning
    return heard


def test_every_advertisement_of_a_real_capture_comes_through(install: Install) -> None:
    """412 reports in one write, each parsed from its raw data, and the helper told to end."""
    recorded = list(read_recording(STREET))
    lines = [
        report(
            one.mac_address,
            one.rssi or 127,
            one.raw or b"",
            kind=2 if one.address_type == "random" else 1,
            flags=0 if one.connectable else 4,
        )
        for one in recorded
    ]
    helper = install(Run(lines))
    heard = first(BluepySource(active=True), len(lines))
    for one, other in zip(heard, recorded, strict=True):
        assert one.connectable == bool(other.connectable)
        fields = [{**vars_of(each), "timestamp": 0, "connectable": 0} for each in (one, other)]
        assert fields[0] == fields[1]
        assert abs(one.timestamp - time.time()) < 60
    assert [run[2:] for run in helper.log] == [["le on", "scan", "scanend", "quit"]]
    assert helper.running == []


def vars_of(advertisement: Advertisement) -> dict[str, object]:
    """Return the fields of an advertisement."""
    return {name: getattr(advertisement, name) for name in Advertisement.__slots__}


def test_a_passive_scan_is_the_helpers_own_and_knows_no_flags(install: Install) -> None:
    """The adapter's number goes to the helper; whether a device is connectable is not known."""
    helper = install(Run([report(ADDRESS, -60, b"\x02\x01\x06")]))
    (heard,) = first(BluepySource(adapter="hci1"), 1)
    assert (heard.connectable, heard.address_type, heard.adapter) == (None, "public", "hci1")
    assert [[run[0], *run[2:]] for run in helper.log] == [["1", "le on", "pasv", "pasvend", "quit"]]


def test_two_adapters_scan_in_one_process_and_each_is_named(install: Install) -> None:
    """In the advertisement, in its payload and in a recording; without --adapter there is no name."""
    lines = Run([report(ADDRESS, -60, b"\x02\x01\x06")])
    helper = install(lines)
    with open_source(ScannerSettings(source="bluepy", adapter=("hci1", "0"))) as source:
        both = list(itertools.islice(source, 2))
    assert {one.adapter for one in both} == {"hci0", "hci1"}
    assert {run[0] for run in helper.log} == {"0", "1"}
    assert {json.loads(format_advertisement(one, "s", 1))["adapter"] for one in both} == {"hci0", "hci1"}
    assert [Advertisement.from_json(one.to_json()).adapter for one in both] == [one.adapter for one in both]
    (unnamed,) = first(BluepySource(), 1)
    assert unnamed.adapter is None
    assert "adapter" not in json.loads(format_advertisement(unnamed, "s", 1))


def test_bluepys_own_parsing_does_not_get_in_the_way(install: Install) -> None:
    """Two fields of a company, fields of an earlier advertisement, a change of address type, no data."""
    install(
        Run(
            [
                report(ADDRESS, -60, bytes.fromhex("04ff4c0001" + "04ff4c0002" + "020a04")),
                report(ADDRESS, -61, bytes.fromhex("03094142"), kind=2),
                report(ADDRESS, -62, b""),
            ]
        )
    )
    both, named, empty = first(BluepySource(), 3)
    assert both.manufacturer_data == {0x4C: (b"\1", b"\2")}
    assert (named.local_name, named.tx_power, named.address_type) == ("AB", None, "random")
    assert (empty.raw, empty.local_name, empty.rssi) == (b"", None, -62)


def test_an_unknown_rssi_is_none(install: Install) -> None:
    """127 comes as 2^32 - 127 from an active and as 129 from a passive scan."""
    passive = report(ADDRESS, 127, b"").replace("FFFFFF81", "81")
    install(Run([report(ADDRESS, 127, b""), passive, report(ADDRESS, -90, b"")]))
    assert [one.rssi for one in first(BluepySource(), 3)] == [None, None, -90]


def test_lines_that_are_no_advertisement_are_counted_and_skipped(install: Install) -> None:
    """Whatever the helper says in between, the next advertisement comes through."""
    good = report(ADDRESS, -60, b"")
    bad = ["rsp=$scan", good.replace("h3C", "h"), "nonsense", "a=$b", "x=?", good.replace("bA4C1", "b"), "\xff=\x00"]
    install(Run([*bad, good]))
    source = BluepySource()
    (heard,) = first(source, 1)
    assert heard.mac_address == ADDRESS
    assert source.dropped == {"malformed": len(bad)}


def test_the_helper_is_started_again_when_it_ends(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """The scan goes on, and what happened is logged once each way."""
    one = report(ADDRESS, -60, b"")
    helper = install(Run([one], ends=True), Run([one], exit_at_once=True), Run([one]))
    with caplog.at_level(logging.INFO, "mqttkit"), BluepySource(retry=0.05) as source:
        assert len(list(itertools.islice(source, 2))) == 2
    assert len(helper.log) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "helper exited unexpectedly" in caplog.text
    assert "scanning again" in caplog.text


def test_a_helper_that_stays_but_says_no_more_is_replaced(install: Install) -> None:
    """Its output has ended, though it has not; it is not left behind."""
    one = report(ADDRESS, -60, b"")
    helper = install(Run([one], closes=True), Run([one]))
    assert len(first(BluepySource(retry=0.05), 2)) == 2
    assert len(helper.log) == 2
    assert helper.running == []


def test_a_silent_radio_is_started_again(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """Silence is noticed without any error, told once, and so is its end."""
    helper = install(Run(), Run(), Run([report(ADDRESS, -60, b"")]))
    with caplog.at_level(logging.INFO, "mqttkit"):
        (heard,) = first(BluepySource(silence=0.3), 1)
    assert heard.rssi == -60
    assert len(helper.log) >= 3
    assert helper.running == []
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == [
        "bluepy: no advertisement for 0.3 s; restarting the scan every 0.3 s",
        "bluepy: scanning again",
    ]


def test_a_scan_that_the_kernel_ended_is_begun_again(install: Install) -> None:
    """bluepy does that by itself; advertisements go on."""
    one = report(ADDRESS, -60, b"")
    helper = install(Run([one, fake.DISCONNECTED]))
    assert len(first(BluepySource(active=True), 2)) == 2
    assert helper.log[0][2:5] == ["le on", "scan", "scan"]


def test_a_scan_left_over_by_somebody_else_is_ended_first(install: Install) -> None:
    """A busy adapter is told to end its scan, and scans for us."""
    answers = {"scan": [fake.BUSY], "scanend": [fake.SUCCESS, fake.DISCONNECTED]}
    helper = install(Run([report(ADDRESS, -60, b"")], answers=answers))
    assert len(first(BluepySource(active=True), 1)) == 1
    assert helper.log[0][2:6] == ["le on", "scan", "scanend", "scan"]


def test_a_stubborn_helper_is_killed(install: Install) -> None:
    """It is not left behind, whatever it ignores."""
    helper = install(Run([report(ADDRESS, -60, b"")], stubborn=True))
    first(BluepySource(), 1)
    assert helper.running == []


def test_close_from_another_thread_ends_a_waiting_iteration(install: Install) -> None:
    """At once, with neither thread nor process left."""
    helper = install(Run())
    source = BluepySource()
    with source:
        closer = threading.Timer(0.2, source.close)
        closer.start()
        assert list(source) == []
        closer.join()
    assert helper.running == []
    assert not any(thread.name.startswith("scan-") for thread in threading.enumerate())


REFUSALS = [
    ([fake.refusal(0x14, "Permission Denied")], PermissionMissing, "setcap cap_net_raw,cap_net_admin+eip /"),
    ([fake.refusal(0x12, "Blocked through rfkill")], AdapterMissing, "rfkill unblock bluetooth"),
    ([fake.refusal(0x11, "Invalid Index")], AdapterMissing, "no Bluetooth adapter hci0"),
    ([fake.refusal(0x03, "Failed")], AdapterStuck, "hciconfig hci0 reset"),
    (["rsp=$mgmt\x1ecode=$badstate"], AdapterStuck, "the adapter answered ['badstate']"),
    ([], AdapterStuck, "did not answer for 0.3 s. Try: sudo hciconfig hci0 reset"),
]


@pytest.mark.parametrize("command", ["le on", "pasv"])
@pytest.mark.parametrize(("answer", "kind", "words"), REFUSALS)
def test_each_refusal_is_its_own_error(
    command: str,
    answer: list[str],
    kind: type[Exception],
    words: str,
    install: Install,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the command that repairs it; the helper ended. Only silence has a short limit: starting takes time."""
    monkeypatch.setattr(Machine, "has_bluetooth_sockets", lambda self: True)
    helper = install(Run(answers={command: answer}))
    with pytest.raises(kind) as caught:
        BluepySource(machine=machine, answer=60.0 if answer else 0.3).start()
    assert words in str(caught.value)
    assert helper.running == []


def test_no_management_is_told_apart(
    install: Install, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Bluetooth in the kernel, no adapter, no rights, or an adapter that is stuck: bluepy says one thing."""
    install(Run(answers={"le on": [fake.NO_MANAGEMENT]}))
    monkeypatch.setattr(Machine, "has_bluetooth_sockets", lambda self: False)
    with pytest.raises(AdapterMissing, match="this kernel has no Bluetooth"):
        BluepySource(machine=machine).start()
    monkeypatch.setattr(Machine, "has_bluetooth_sockets", lambda self: True)
    with pytest.raises(AdapterMissing, match=r"no Bluetooth adapter.*--source simulated"):
        BluepySource(machine=Machine(sys_class=tmp_path / "none")).start()
    with pytest.raises(AdapterMissing, match="no Bluetooth adapter hci3; available: hci0"):
        BluepySource(machine=machine, adapter="hci3").start()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionMissing, match="setcap"):
        BluepySource(machine=machine).start()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(AdapterStuck, match="hci0 does not scan: Management not available"):
        BluepySource(machine=machine).start()


def test_a_helper_that_is_missing_or_broken_is_told(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what builds it: not there, no program, ending at once."""
    install(Run(exit_at_once=True))
    with pytest.raises(HelperMissing, match=r"exited unexpectedly.*libglib2.0-dev"):
        BluepySource().start()
    monkeypatch.setattr(btle, "helperExe", str(tmp_path / "none"))
    with pytest.raises(HelperMissing, match=r"No such file.*libglib2.0-dev"):
        BluepySource().start()
    (tmp_path / "none").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "none").chmod(0o755)
    with pytest.raises(HelperMissing, match="Exec format error"):
        BluepySource().start()


@pytest.mark.parametrize("adapter", ["wlan0", "hci", "hci0x"])
def test_an_adapter_that_can_be_none_is_refused(adapter: str) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError, match=adapter):
        BluepySource(adapter=adapter)


def test_the_command_ends_with_0_at_ctrl_c_and_leaves_no_helper(install: Install) -> None:
    """SIGINT goes to the whole foreground group: the helper must not die of it first."""
    helper = install(Run([report(ADDRESS, -60, b"\x03\x09AB")]))
    code = f"import bluepy.btle as b, mqttkit.cli as c; b.helperExe = {str(helper.path)!r}; c.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "scan", "--source", "bluepy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "'AB'" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert helper.running == []
    assert helper.log[0][2:] == ["le on", "pasv", "pasvend", "quit"]
