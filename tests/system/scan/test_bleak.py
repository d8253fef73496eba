"""bleak, end to end, against a small BlueZ on a D-Bus of the tests' own."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import AdapterMissing, AdapterStuck, PermissionMissing
from mqttkit.messages import Subscription
from mqttkit.scanner import Advertisement, open_source
from mqttkit.scanner.sources import bleak as bleak_source
from mqttkit.scanner.sources.bleak import BleakSource
from mqttkit.settings import ScannerSettings
from mqttkit.testing.broker import TestBroker
from tests.support.bluez import COMPANY, Radio, address, bluez, dbus_daemon
from tests.support.clients import settings_for, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A D-Bus daemon that is the system bus of this process."""
    with dbus_daemon(tmp_path / "dbus") as bus_address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus_address)
        yield bus_address


def number(advertisement: Advertisement) -> int:
    """Return which advertisement of the service it is."""
    return int.from_bytes(advertisement.manufacturer_data[COMPANY][0], "little")


def test_a_thousand_advertisements_a_second_come_through_whole(bus: str) -> None:
    """Each of 3,000, in order, from many devices, within the time that they take."""
    with bluez(bus, Radio(rate=1000, devices=50)), BleakSource() as source:
        begun = time.monotonic()
        heard = list(itertools.islice(source, 3000))
        assert time.monotonic() - begun < 15
    assert [number(one) for one in heard] == list(range(3000))
    assert not source.dropped
    assert len({one.mac_address for one in heard}) == 50
    assert heard[-1].timestamp - heard[0].timestamp > 2.5


def test_every_field_of_bluez_is_taken_over(bus: str) -> None:
    """In our own spelling; the source named in the settings is this one."""
    with bluez(bus, Radio(devices=2)), open_source(ScannerSettings(source="bleak", adapter=("hci0",))) as source:
        first, second = itertools.islice(source, 2)
    assert (first.mac_address, second.mac_address) == (address(0), address(1))
    assert (first.address_type, second.address_type) == ("public", "random")
    assert (second.rssi, second.local_name, second.tx_power) == (-41, "Device 1", 4)
    assert second.manufacturer_data == {COMPANY: (b"\1\0\0\0",)}
    assert second.service_uuids == ("0000180f-0000-1000-8000-00805f9b34fb",)
    assert second.service_data == {"0000fcd2-0000-1000-8000-00805f9b34fb": b"\x40\x01"}
    assert (second.raw, second.connectable, second.adapter) == (None, None, "hci0")


def test_an_rssi_that_bluez_does_not_tell_is_none(bus: str) -> None:
    """bleak says -127 for it."""
    with bluez(bus, Radio(without_rssi=True)), BleakSource() as source:
        assert [one.rssi for one in itertools.islice(source, 10)] == [None] * 10


def test_a_service_that_is_killed_and_returns_is_scanned_again(bus: str, caplog: pytest.LogCaptureFixture) -> None:
    """bleak says nothing of its death; it is noticed and told once, and the scan begun anew when it is back."""
    heard = []
    with caplog.at_level(logging.INFO, "mqttkit"), BleakSourceOn(bus) as (source, iterator):
        with bluez(bus, Radio()):
            source.start()
            heard += itertools.islice(iterator, 50)
        wait_until(lambda: not source.scanning)
        with bluez(bus, Radio()):
            heard += itertools.islice(iterator, 50)
            assert source.scanning
            messages = [record.getMessage() for record in caplog.records]
    assert len(heard) == 100
    assert messages[0].startswith("bleak: scan lost: BlueZ, the Bluetooth service, ended")
    assert messages[-1] == "bleak: scanning again"
    assert len(messages) <= 3


def test_waiting_for_the_radio_starts_without_bluez(bus: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, then the scan; `start` does not raise."""
    with BleakSource(wait=True, retry=0.1) as source:
        assert not source.scanning
        with bluez(bus, Radio()):
            assert len(list(itertools.islice(source, 10))) == 10
            assert source.scanning
    warning, *_ = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("bleak: no scan yet: BlueZ, the Bluetooth service, is not running")
    assert "scan lost: BlueZ, the Bluetooth service, is not running" not in caplog.text


def test_a_passive_scan_uses_monitors(bus: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says which kind it is."""
    with caplog.at_level(logging.DEBUG, "mqttkit"), bluez(bus, Radio(refuse="org.bluez.Error.Failed")):
        settings = ScannerSettings(source="bleak", passive=True)
        with open_source(settings) as source:
            assert len(list(itertools.islice(source, 20))) == 20
    assert "BlueZ scans passively" in caplog.text


def test_a_bluez_without_monitors_cannot_scan_passively(bus: str) -> None:
    """The error says what to do."""
    with bluez(bus, Radio(experimental=False)), pytest.raises(AdapterMissing, match="--experimental"):
        BleakSource(passive=True).start()


class BleakSourceOn:
    """A source that is quick to doubt, not started yet, and closed at the end."""

    def __init__(self, bus: str) -> None:
        self.source = BleakSource(silence=0.5, retry=0.2)

    def __enter__(self) -> tuple[BleakSource, Iterator[Advertisement]]:
        return self.source, iter(self.source)

    def __exit__(self, *error: object) -> None:
        self.source.__exit__(None, None, None)


def test_an_adapter_that_was_unplugged_is_scanned_again(bus: str) -> None:
    """The service returns without it first."""
    with BleakSourceOn(bus) as (source, iterator):
        with bluez(bus, Radio()):
            source.start()
            next(iterator)
        with bluez(bus, Radio(adapter=False)):
            wait_until(lambda: not source.scanning)
        with bluez(bus, Radio()):
            wait_until(lambda: source.scanning)
            assert next(iterator).mac_address


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["switched off", "removed"])
def test_an_adapter_that_vanishes_while_bluez_lives_is_noticed(bus: str, number: signal.Signals) -> None:
    """Within 2 s; the scan continues within 2 s of its return."""
    with bluez(bus, Radio()) as service, BleakSource() as source:
        iterator = iter(source)
        next(iterator)
        service.send_signal(number)
        began = time.monotonic()
        wait_until(lambda: not source.scanning, 5)
        assert time.monotonic() - began < 2
        service.send_signal(number)
        began = time.monotonic()
        wait_until(lambda: source.scanning, 5)
        assert time.monotonic() - began < 2
        assert next(iterator).mac_address


def test_a_dbus_that_is_killed_and_returns_is_scanned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is noticed before any silence is."""
    source = BleakSource(retry=0.2)
    for round_number in range(2):
        with dbus_daemon(tmp_path) as bus_address, bluez(bus_address, Radio()):
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus_address)
            if round_number == 0:
                source.start()
                iterator = iter(source)
            wait_until(lambda: source.scanning)
            assert len(list(itertools.islice(iterator, 20))) == 20
        wait_until(lambda: not source.scanning)
    source.__exit__(None, None, None)


def test_a_quiet_room_keeps_the_scan_going(bus: str, caplog: pytest.LogCaptureFixture) -> None:
    """Silence restarts the scan without a pause; it is told once, and so is its end."""
    source = BleakSource(silence=0.3, retry=0.2)
    with bluez(bus, Radio(count=1, devices=1)), caplog.at_level(logging.INFO, "mqttkit"), source:
        assert len(list(itertools.islice(source, 3))) == 3
        assert source.scanning
    assert [record.getMessage() for record in caplog.records][:4] == [
        "bleak: no advertisement for 0.3 s; restarting the scan every 0.3 s",
        "bleak: scanning again",
    ] * 2


@pytest.mark.parametrize(
    ("radio", "kind", "words"),
    [
        (Radio(adapter=False), AdapterMissing, "has no adapter for Bluetooth"),
        (Radio(powered=False), AdapterMissing, "switched off. Try: rfkill unblock bluetooth && bluetoothctl power on"),
        (Radio(refuse="org.bluez.Error.NotReady"), AdapterMissing, "bluetoothctl power on"),
        (Radio(refuse="org.bluez.Error.NotAuthorized"), PermissionMissing, "usermod -aG bluetooth"),
        (Radio(refuse="org.freedesktop.DBus.Error.AccessDenied"), PermissionMissing, "not allow this user to scan"),
        (Radio(refuse="org.freedesktop.DBus.Error.UnknownObject"), AdapterMissing, "adapter was removed"),
        (Radio(refuse="org.bluez.Error.InProgress"), AdapterStuck, "systemctl restart bluetooth"),
        (Radio(roles=False), AdapterStuck, "does not report 'Roles': it is too old for bleak. Try: --source bluepy"),
        (Radio(mute=True), AdapterStuck, "did not start the scan within 0.5 s"),
    ],
)
def test_each_reason_not_to_scan_is_its_own_error(
    radio: Radio, kind: type[Exception], words: str, bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that mends it, from the start of the source."""
    monkeypatch.setattr(bleak_source, "ANSWER", 0.5)
    with bluez(bus, radio), pytest.raises(kind) as caught:
        BleakSource().start()
    assert words in str(caught.value)


def test_an_invalid_uuid_costs_only_that_uuid(bus: str) -> None:
    """The advertisement arrives with its valid fields."""
    with bluez(bus, Radio(devices=2, hostile=True)), BleakSource() as source:
        heard = list(itertools.islice(source, 10))
    assert {one.mac_address for one in heard} == {address(0), address(1)}
    assert all(one.manufacturer_data for one in heard)
    assert not source.dropped


def test_an_adapter_that_is_not_there_is_named(bus: str) -> None:
    """As bleak names it."""
    with bluez(bus, Radio()), pytest.raises(AdapterMissing, match="no Bluetooth adapter hci7"):
        BleakSource(adapter="hci7").start()


def test_without_bluez_or_without_dbus_the_service_to_start_is_named(
    bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the sources that need no radio."""
    with pytest.raises(AdapterMissing, match=r"is not running\. Try: apt-get install bluez.*--source simulated"):
        BleakSource().start()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with pytest.raises(AdapterMissing, match="no D-Bus system bus"):
        BleakSource().start()


def open_files() -> set[tuple[int, str]]:
    """Number and target of each open file. Tests that ran before may leave some, which may be closed at any time."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((int(number), os.readlink(f"/proc/self/fd/{number}")))
    return found


def test_close_from_another_thread_ends_a_waiting_iteration(bus: str) -> None:
    """At once, with no thread and no connection to the bus left."""
    before = open_files()
    with bluez(bus, Radio(count=0)) as service, BleakSource() as source:
        closer = threading.Timer(0.2, source.close)
        closer.start()
        assert list(source) == []
        closer.join()
        source.__exit__(None, None, None)
        assert service.stdout is not None
        assert [number for number, _ in open_files() - before] == [service.stdout.fileno()]
    assert not any(thread.name.startswith("scan-") for thread in threading.enumerate())


def test_the_command_shows_what_bluez_hears_and_ends_with_0(bus: str) -> None:
    """JSON lines until SIGTERM."""
    with (
        bluez(bus, Radio()),
        subprocess.Popen(
            [sys.executable, "-m", "mqttkit", "scan", "--source", "bleak", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["local_name"] == "Device 0"
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


def test_the_command_ends_with_7_without_bluez(bus: str) -> None:
    """One line on stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "mqttkit", "scan", "--source", "bleak"], check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (7, "")
    assert result.stderr.startswith("mqttkit: BlueZ, the Bluetooth service, is not running")
    assert len(result.stderr.splitlines()) == 1


def test_the_status_topic_follows_the_radio(tmp_path: Path, shared_broker: TestBroker, topic: str) -> None:
    """publish-scan says online, offline while D-Bus is away, online again, and offline at its end."""
    said: list[bytes] = []
    arguments = ["--source", "bleak", "--status-topic", f"{topic}/status", "--topic", f"{topic}/{{mac_address}}"]
    place = ["-h", "127.0.0.1", "-p", str(shared_broker.port)]
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/bus"}
    with MqttClient(
        settings_for(shared_broker.port), on_message=lambda message: said.append(message.payload)
    ) as client:
        client.connect()
        client.subscribe(Subscription(f"{topic}/status", qos=1))
        with dbus_daemon(tmp_path) as bus_address, bluez(bus_address, Radio()):
            process = subprocess.Popen(
                [sys.executable, "-m", "mqttkit", "publish-scan", *arguments, *place],
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            wait_until(lambda: said == [b"online"])
        wait_until(lambda: said == [b"online", b"offline"])
        with dbus_daemon(tmp_path) as bus_address, bluez(bus_address, Radio()):
            wait_until(lambda: said == [b"online", b"offline", b"online"])
            process.terminate()
            assert process.wait(60) == 0
        wait_until(lambda: said[3:] == [b"offline"])
