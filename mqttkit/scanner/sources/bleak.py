"""bleak, and through it BlueZ, as a source of advertisements; the only importer of bleak."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bleak import BleakScanner
from bleak.backends.bluezdbus.manager import BlueZManager, get_global_bluez_manager
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakDBusError, BleakError
from dbus_fast import Message, MessageType

from mqttkit.errors import AdapterMissing, AdapterStuck, MqttkitError, PermissionMissing
from mqttkit.scanner.advertisement import Advertisement, normalise_mac, normalise_uuid
from mqttkit.scanner.sources.machine import WITHOUT_RADIO
from mqttkit.scanner.sources.radio import RETRY, SILENCE, RadioSource

if TYPE_CHECKING:
    from bleak.args.bluez import BlueZScannerArgs
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

_log = logging.getLogger(__name__)

ANSWER = 10.0
"""Seconds that BlueZ has to start or to stop a scan."""
_TICK = 0.5
"""Seconds after which the scan looks whether it is to end, and whether BlueZ still runs."""
_RSSI_UNKNOWN = -127
"""What bleak gives for none."""


class BleakSource(RadioSource):
    """Scan with bleak: its asyncio loop runs in the source's thread.

    BlueZ merges what a device said over time, tells one field a company, and always scans actively. Where it
    dies, bleak falls silent without a word: so BlueZ's name on the bus is watched, and the silence too.
    """

    def __init__(self, *, adapter: str | None = None, silence: float = SILENCE, retry: float = RETRY) -> None:
        super().__init__("bleak", silence=silence, retry=retry)
        self._adapter = adapter

    def scan(self) -> None:
        """See RadioSource."""
        asyncio.run(self._scan())

    async def _scan(self) -> None:
        with _translated(self._adapter):
            manager = await asyncio.wait_for(get_global_bluez_manager(), ANSWER)
            adapter: BlueZScannerArgs = {} if self._adapter is None else {"adapter": self._adapter}
            scanner = BleakScanner(self._detected, bluez={**adapter, "filters": {"DuplicateData": True}})
            try:
                await asyncio.wait_for(scanner.start(), ANSWER)
                owner = await _owner(manager)
                self.begun()
                while self.check():
                    await asyncio.sleep(_TICK)
                    if await _owner(manager) != owner:
                        raise AdapterMissing(f"{_SERVICE} ended", hint=_RESTART)
            finally:
                if _connected(manager):
                    await _stop(scanner)
                _hang_up(manager)

    def _detected(self, device: BLEDevice, data: AdvertisementData) -> None:
        """Hand over what bleak heard; runs in the loop, which an exception would leave deaf."""
        try:
            self.heard(_advertisement(device, data))
        except Exception as error:  # noqa: BLE001 - whatever a device or BlueZ says, the next one counts
            self.malformed(error)


def _advertisement(device: BLEDevice, data: AdvertisementData) -> Advertisement:
    properties = data.platform_data[1]
    return Advertisement(
        mac_address=normalise_mac(device.address),
        address_type="random" if properties.get("AddressType") == "random" else "public",
        rssi=None if data.rssi == _RSSI_UNKNOWN else data.rssi,
        timestamp=time.time(),
        local_name=data.local_name,
        manufacturer_data={company: (field,) for company, field in data.manufacturer_data.items()},
        service_data={normalise_uuid(service): field for service, field in data.service_data.items()},
        service_uuids=tuple(dict.fromkeys(normalise_uuid(service) for service in data.service_uuids)),
        tx_power=data.tx_power,
    )


async def _stop(scanner: BleakScanner) -> None:
    """Stop a scan that may be dead already."""
    try:
        await asyncio.wait_for(scanner.stop(), ANSWER)
    except (BleakError, OSError, EOFError, asyncio.TimeoutError) as error:
        _log.debug("the scan did not stop: %r", error)


def _connected(manager: BlueZManager) -> bool:
    """Tell whether the D-Bus daemon is still there; bleak tells nobody."""
    return manager._bus is not None and manager._bus.connected


async def _owner(manager: BlueZManager) -> str:
    """Return the name that BlueZ has on the bus for as long as it lives; empty where there is none."""
    if manager._bus is None or not manager._bus.connected:
        raise EOFError("the connection was closed")
    question = Message(
        destination="org.freedesktop.DBus",
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="GetNameOwner",
        signature="s",
        body=["org.bluez"],
    )
    reply = await asyncio.wait_for(manager._bus.call(question), ANSWER)
    return str(reply.body[0]) if reply is not None and reply.message_type is MessageType.METHOD_RETURN else ""


def _hang_up(manager: BlueZManager) -> None:
    """Close the D-Bus connection, which bleak keeps open for as long as the process lives."""
    if manager._bus is not None:
        manager._bus.disconnect()


@contextlib.contextmanager
def _translated(adapter: str | None) -> Iterator[None]:
    """Turn what bleak, D-Bus and asyncio raise into our errors."""
    try:
        yield
    except asyncio.TimeoutError as error:
        raise AdapterStuck(f"BlueZ did not start the scan within {ANSWER:g} s", hint=_RESTART) from error
    except BleakBluetoothNotAvailableError as error:
        raise _not_available(error) from error
    except BleakDBusError as error:
        raise _refusal(error) from error
    except KeyError as error:
        raise AdapterStuck(f"BlueZ does not tell {error}: it is too old for bleak", hint=_BLUEPY) from error
    except BleakError as error:
        raise AdapterMissing(f"no Bluetooth adapter {adapter}: {error}", hint="See: bluetoothctl list") from error
    except (OSError, EOFError) as error:
        raise AdapterMissing(
            f"no D-Bus system bus, through which BlueZ is reached: {error}",
            hint=f"Try: systemctl start dbus bluetooth. {WITHOUT_RADIO}",
        ) from error


_SERVICE = "BlueZ, the Bluetooth service,"
_RESTART = "Try: systemctl restart bluetooth"
_POWER_ON = "Try: rfkill unblock bluetooth && bluetoothctl power on"
_BLUEPY = "Try: --source bluepy"
_GROUP = "Try: sudo usermod -aG bluetooth $USER, and log in again"


def _not_available(error: BleakBluetoothNotAvailableError) -> MqttkitError:
    """Return why bleak finds no adapter that it may use."""
    if error.reason is BleakBluetoothNotAvailableReason.DENIED_BY_SYSTEM:
        return PermissionMissing(f"D-Bus does not let this user in: {error.args[0]}", hint=_GROUP)
    if error.reason is BleakBluetoothNotAvailableReason.POWERED_OFF:
        return AdapterMissing("the Bluetooth adapter is switched off", hint=_POWER_ON)
    return AdapterMissing("BlueZ has no Bluetooth adapter for Low Energy", hint=WITHOUT_RADIO)


def _refusal(error: BleakDBusError) -> MqttkitError:
    """Return what a D-Bus error of BlueZ, or of the bus about BlueZ, means."""
    kind = error.dbus_error.rpartition(".")[2]
    if kind in ("ServiceUnknown", "NameHasNoOwner", "ServiceNotFound", "SpawnFailed"):
        hint = f"Try: apt-get install bluez && systemctl start bluetooth. {WITHOUT_RADIO}"
        return AdapterMissing(f"{_SERVICE} does not run", hint=hint)
    if kind in ("AccessDenied", "NotAuthorized", "NotPermitted"):
        return PermissionMissing(f"BlueZ does not let this user scan: {error}", hint=_GROUP)
    if kind == "NotReady":
        return AdapterMissing("the Bluetooth adapter is switched off", hint=_POWER_ON)
    if kind in ("UnknownObject", "UnknownMethod"):
        return AdapterMissing(f"the Bluetooth adapter is gone: {error}", hint="See: bluetoothctl list")
    return AdapterStuck(f"BlueZ does not scan: {error}", hint=_RESTART)
