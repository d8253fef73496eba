"""A small BlueZ on a private D-Bus: one adapter, and devices that advertise while somebody discovers.

    python -m tests.support.bluez '{"rate": 1000}'

It speaks what a scanner needs of org.bluez: GetManagedObjects, SetDiscoveryFilter, StartDiscovery and
StopDiscovery, InterfacesAdded once a device, then PropertiesChanged with each advertisement.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1, SIGUSR2
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from tests.support.brokers import need

ADAPTER = "/org/bluez/hci0"
COMPANY = 0xFFFF
"""Of the manufacturer data: four bytes, little endian, that count the advertisements."""
UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"


@dataclass(frozen=True)
class Radio:
    """What the service does."""

    adapter: bool = True
    powered: bool = True
    roles: bool = True
    """Tell of Roles, as BlueZ does since 5.54."""
    devices: int = 5
    rate: float = 100.0
    """Advertisements a second."""
    count: int = 1_000_000_000
    """Advertisements of one discovery; then it is silent."""
    refuse: str = ""
    """D-Bus error that StartDiscovery is answered with."""
    hostile: bool = False
    """The first device lists a service that is no UUID."""
    without_rssi: bool = False
    experimental: bool = True
    """Have AdvertisementMonitorManager1, which passive scans need."""
    mute: bool = False
    """Never answer StartDiscovery."""


class Service:
    """The service's side of the bus."""

    def __init__(self, bus: MessageBus, radio: Radio) -> None:
        self._bus = bus
        self._radio = radio
        self._known: set[int] = set()
        self._number = 0
        self._discovery: asyncio.Task[None] | None = None
        self._powered = radio.powered
        self._there = radio.adapter
        bus.add_message_handler(self._answer)

    def switch_power(self) -> None:
        """Switch the adapter off or on, and report it."""
        self._powered = not self._powered
        body = ["org.bluez.Adapter1", {"Powered": Variant("b", self._powered)}, []]
        self._end_discovery()
        self._bus.send(signal(ADAPTER, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", body))

    def plug(self) -> None:
        """Remove the adapter or plug it in again, and report it."""
        self._there = not self._there
        self._end_discovery()
        manager = "org.freedesktop.DBus.ObjectManager"
        if self._there:
            body: list[Any] = [ADAPTER, self._objects()[ADAPTER]]
            self._bus.send(signal("/", manager, "InterfacesAdded", "oa{sa{sv}}", body))
        else:
            self._bus.send(signal("/", manager, "InterfacesRemoved", "oas", [ADAPTER, ["org.bluez.Adapter1"]]))

    def _end_discovery(self) -> None:
        if self._discovery is not None:
            self._discovery.cancel()

    def _answer(self, call: Message) -> Message | bool:
        """Answer a method call; True where it is dealt with and has no answer."""
        if call.message_type is not MessageType.METHOD_CALL or call.interface == "org.freedesktop.DBus.Peer":
            return False
        if call.member == "GetManagedObjects":
            return Message.new_method_return(call, "a{oa{sa{sv}}}", [self._objects()])
        if not self._there or call.path != ADAPTER:
            return Message.new_error(call, UNKNOWN, f"no object {call.path}")
        if call.member == "StartDiscovery" and (self._radio.mute or self._radio.refuse):
            return self._radio.mute or Message.new_error(call, self._radio.refuse, "refused")
        if call.member == "RegisterMonitor" and not self._radio.experimental:
            return Message.new_error(call, UNKNOWN, "no such method")
        if call.member in ("StartDiscovery", "RegisterMonitor"):
            self._discovery = asyncio.create_task(self._advertise())
        elif call.member in ("StopDiscovery", "UnregisterMonitor") and self._discovery is not None:
            self._discovery.cancel()
        return Message.new_method_return(call)

    def _objects(self) -> dict[str, Any]:
        properties = {
            "Address": Variant("s", "00:00:00:00:00:01"),
            "Powered": Variant("b", self._powered),
            **({"Roles": Variant("as", ["central"])} if self._radio.roles else {}),
        }
        objects = {ADAPTER: {"org.bluez.Adapter1": properties}} if self._there else {}
        return objects | {path_of(device): {DEVICE: self._fixed(device)} for device in self._known}

    def _fixed(self, device: int) -> dict[str, Variant]:
        wrong = {"UUIDs": Variant("as", ["battery"])} if self._radio.hostile and device == 0 else {}
        return fixed(device) | wrong

    async def _advertise(self) -> None:
        """Advertise, one device after the other, at the rate."""
        loop = asyncio.get_running_loop()
        begun, first = loop.time(), self._number
        while self._number - first < self._radio.count:
            due = begun + (self._number - first) / self._radio.rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._bus.send(self._advertisement(self._number % self._radio.devices))
            self._number += 1

    def _advertisement(self, device: int) -> Message:
        path = path_of(device)
        changed = {
            "RSSI": Variant("n", -40 - self._number % 50),
            "ManufacturerData": Variant("a{qv}", {COMPANY: Variant("ay", self._number.to_bytes(4, "little"))}),
        }
        if self._radio.without_rssi:
            del changed["RSSI"]
        if device in self._known:
            return signal(
                path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", [DEVICE, changed, []]
            )
        self._known.add(device)
        body = [path, {DEVICE: self._fixed(device) | changed}]
        return signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "oa{sa{sv}}", body)


def fixed(device: int) -> dict[str, Variant]:
    """Return the properties of a device that do not change."""
    return {
        "Address": Variant("s", address(device)),
        "AddressType": Variant("s", "random" if device % 2 else "public"),
        "Adapter": Variant("o", ADAPTER),
        "Alias": Variant("s", f"Device {device}"),
        "Name": Variant("s", f"Device {device}"),
        "UUIDs": Variant("as", ["0000180F-0000-1000-8000-00805F9B34FB"]),
        "ServiceData": Variant("a{sv}", {"0000fcd2-0000-1000-8000-00805f9b34fb": Variant("ay", b"\x40\x01")}),
        "TxPower": Variant("n", 4),
    }


def path_of(device: int) -> str:
    """Return the D-Bus path of a device."""
    return f"{ADAPTER}/dev_{address(device).replace(':', '_')}"


DEVICE = "org.bluez.Device1"


def address(device: int) -> str:
    """Return the address of a device."""
    return device.to_bytes(6, "big").hex(":").upper()


def signal(path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    """Make a D-Bus signal."""
    return Message(
        message_type=MessageType.SIGNAL,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body,
    )


async def serve(radio: Radio) -> None:
    """Act as BlueZ until the bus ends; SIGUSR1 switches the adapter's power, SIGUSR2 removes or adds it."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    service = Service(bus, radio)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(SIGUSR1, service.switch_power)
    loop.add_signal_handler(SIGUSR2, service.plug)
    await bus.request_name("org.bluez")
    print("ready", flush=True)
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def dbus_daemon(directory: Path) -> Iterator[str]:
    """Run a D-Bus daemon of one's own; yield its address."""
    program = need("dbus-daemon")
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "bus.conf"
    config.write_text(_CONFIG.format(socket=directory / "bus"))
    command = [program, f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"]
    with running(command, dict(os.environ)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextlib.contextmanager
def bluez(bus: str, radio: Radio) -> Iterator[subprocess.Popen[str]]:
    """Run the service on a bus; it is killed at the end, as BlueZ is when it crashes."""
    command = [sys.executable, "-m", "tests.support.bluez", json.dumps(dataclasses.asdict(radio))]
    with running(command, {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process; kill it at the end."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(Radio(**json.loads(sys.argv[1]))))
