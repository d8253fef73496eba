"""What the radio sources share, and how this machine's Bluetooth is looked at."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttkit.errors import AdapterMissing, MissingPart
from mqttkit.scanner import Advertisement, open_source
from mqttkit.scanner.sources import choose_radio, machine
from mqttkit.scanner.sources.machine import Machine, has_capabilities
from mqttkit.scanner.sources.radio import QUEUE_SIZE, RadioSource
from mqttkit.settings import ScannerSettings


class Radio(RadioSource):
    """A radio that does what a function does."""

    def __init__(self, work: Callable[[Radio], None]) -> None:
        super().__init__("test", retry=0.01)
        self.work = work

    def scan(self) -> None:
        """See RadioSource."""
        self.work(self)


def advertisement(number: int) -> Advertisement:
    """Make one that bears a number."""
    return Advertisement(mac_address="AA:BB:CC:DD:EE:FF", timestamp=float(number))


def test_the_oldest_is_dropped_and_counted_where_nobody_takes_them() -> None:
    """Memory stays bounded, and the newest comes through."""
    said = threading.Event()

    def work(radio: Radio) -> None:
        radio.begun()
        for number in range(QUEUE_SIZE + 5):
            radio.heard(advertisement(number))
        said.set()
        radio._stop.wait(60)

    with Radio(work) as source:
        assert said.wait(60)
        heard = list(itertools.islice(source, QUEUE_SIZE))
    assert [heard[0].timestamp, heard[-1].timestamp] == [5, QUEUE_SIZE + 4]
    assert source.dropped == {"queue_full": 5}


def test_a_bug_in_the_thread_is_raised_where_it_is_seen() -> None:
    """In the iterating thread after the start, in the starting thread before it."""

    started = threading.Event()

    def later(radio: Radio) -> None:
        radio.begun()
        assert started.wait(60)
        raise ZeroDivisionError

    def at_once(radio: Radio) -> None:
        raise ZeroDivisionError

    with Radio(later) as source, pytest.raises(ZeroDivisionError):
        started.set()
        list(source)
    with pytest.raises(ZeroDivisionError), Radio(at_once):
        pass
    assert not any(thread.name == "scan-test" for thread in threading.enumerate())


@pytest.fixture
def hci1(tmp_path: Path) -> Machine:
    """A machine with the adapter hci1, a connection over it, and a D-Bus."""
    for name in ("hci1", "hci1:64"):
        (tmp_path / "class" / name).mkdir(parents=True)
    (tmp_path / "bus").touch()
    return Machine(sys_class=tmp_path / "class", dbus_socket=tmp_path / "bus")


def test_auto_is_bleak_then_bluepy_then_told_what_to_install(hci1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """bleak needs D-Bus; without an adapter neither is tried."""
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    assert choose_radio(hci1, None) == choose_radio(hci1, "hci1") == "bleak"
    assert choose_radio(Machine(hci1.sys_class, hci1.sys_class / "none"), None) == "bluepy"
    monkeypatch.setitem(sys.modules, "bleak", None)
    assert choose_radio(hci1, None) == "bluepy"
    monkeypatch.setitem(sys.modules, "bluepy", None)
    with pytest.raises(MissingPart, match=r"pip install 'mqttkit\[bleak\]'"):
        choose_radio(hci1, None)
    with pytest.raises(AdapterMissing, match="no Bluetooth adapter hci0; available: hci1"):
        choose_radio(hci1, "hci0")
    with pytest.raises(AdapterMissing, match=r"--source simulated or --source replay:FILE"):
        choose_radio(Machine(hci1.sys_class / "none"), None)


@pytest.mark.parametrize("name", ["bleak", "bluepy"])
def test_an_extra_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"mqttkit.scanner.sources.{name}", raising=False)
    with pytest.raises(MissingPart, match=rf"{name} is not installed.*pip install 'mqttkit\[{name}\]'"):
        open_source(ScannerSettings(source=name))


def test_auto_tells_of_the_sources_without_a_radio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has none; the radio of one that has is opened."""
    monkeypatch.setattr(machine.Machine, "adapters", lambda self: [])
    with pytest.raises(AdapterMissing, match="this machine has no Bluetooth adapter"):
        open_source(ScannerSettings())
    monkeypatch.setattr(machine.Machine, "adapters", lambda self: ["hci0"])
    assert isinstance(open_source(ScannerSettings()), RadioSource)


def test_bluetooth_sockets_are_there_where_the_kernel_has_bluetooth() -> None:
    """Asking may load the module."""
    assert Machine().has_bluetooth_sockets() is Path("/sys/module/bluetooth").exists()


@pytest.mark.parametrize(
    ("permitted", "enough"), [(1 << 12 | 1 << 13, True), (1 << 13, False), (0, False), (None, False)]
)
def test_the_helpers_capabilities_are_read_from_its_file(
    permitted: int | None, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are needed, for raw packets and for managing the adapter (struct vfs_cap_data, version 2)."""
    program = tmp_path / "helper"
    program.touch()
    if permitted is not None:
        attribute = struct.pack("<IIIII", 0x02000001, permitted, permitted, 0, 0)
        try:
            os.setxattr(program, "security.capability", attribute)
        except OSError:  # only root may, and not on every file system: then the kernel's answer is scripted
            monkeypatch.setattr(os, "getxattr", lambda path, name: attribute)
    assert has_capabilities(str(program)) is enough
