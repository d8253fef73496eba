"""A source that scans with bleak and BlueZ; the only module that imports bleak."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bleak import BleakScanner
from bleak.args.bluez import OrPattern, OrPatternLike
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.bluezdbus.manager import BlueZManager, get_global_bluez_manager
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakDBusError, BleakError
from dbus_fast import Message, MessageType

from mqttkit.errors import AdapterMissing, AdapterStuck, AdvertisementError, MqttkitError, PermissionMissing
from mqttkit.scanner.advertisement import Advertisement, normalise_mac, normalise_uuid
from mqttkit.scanner.sources.machine import WITHOUT_RADIO
from mqttkit.scanner.sources.radio import RETRY, SILENCE, RadioSource

if TYPE_CHECKING:
    from bleak.args.bluez import BlueZScannerArgs
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

_log = logging.getLogger(__name__)

ANSWER = 10.0
"""Seconds within which BlueZ must start or stop a scan."""
_TICK = 0.5
"""Seconds between checks that the scan continues and BlueZ still runs."""
_FLAGS = AdvertisementDataType.FLAGS
_ANY_FLAGS: list[OrPatternLike] = [OrPattern(0, _FLAGS, bytes([flags])) for flags in (2, 4, 5, 6, 0x18, 0x1A)]
"""The usual values of the flags: BlueZ filters passive scans, and has no pattern for everything."""
_RSSI_UNKNOWN = -127
"""The value of bleak for an unknown RSSI."""


class BleakSource(RadioSource):
    """Scan with bleak, whose asyncio loop runs in the source's thread.

    BlueZ merges the advertisements of a device and reports one field per company. bleak does not notice when BlueZ
    exits or the adapter is switched off, so the source watches both, and the silence.
    """

    def __init__(
        self,
        *,
        adapter: str | None = None,
        passive: bool = False,
        wait: bool = False,
        silence: float = SILENCE,
        retry: float = RETRY,
    ) -> None:
        super().__init__("bleak" if adapter is None else f"bleak {adapter}", wait=wait, silence=silence, retry=retry)
        self._adapter = adapter
        self._passive = passive

    def scan(self) -> None:
        """Implement RadioSource."""
        asyncio.run(self._scan())

    async def _scan(self) -> None:
        with _translated(self._adapter):
            manager = await asyncio.wait_for(get_global_bluez_manager(), ANSWER)
            adapter: BlueZScannerArgs = {} if self._adapter is None else {"adapter": self._adapter}
            scanner = BleakScanner(
                self._detected,
                scanning_mode="passive" if self._passive else "active",
                bluez={**adapter, "filters": {"DuplicateData": True}, "or_patterns": _ANY_FLAGS},
            )
            path = manager.get_default_adapter() if self._adapter is None else f"/org/bluez/{self._adapter}"
            try:
                await asyncio.wait_for(scanner.start(), ANSWER)
                owner = await _owner(manager)
                _log.debug("BlueZ scans %s", "passively" if self._passive else "actively")
                self.begun()
                while self.check():
                    await asyncio.sleep(_TICK)
                    if await _owner(manager) != owner:
                        raise AdapterMissing(f"{_SERVICE} ended", hint=_RESTART)
                    _check_adapter(manager, path)
            finally:
                if _connected(manager):
                    await _stop(scanner)
                _hang_up(manager)

    def _detected(self, device: BLEDevice, data: AdvertisementData) -> None:
        """Pass on what bleak received. Runs in the loop; an exception would end the scan silently."""
        try:
            self.heard(_advertisement(device, data, self._adapter))
        except Exception as error:  # noqa: BLE001 - one invalid advertisement must not end the scan
            self.malformed(error)


def _advertisement(device: BLEDevice, data: AdvertisementData, adapter: str | None) -> Advertisement:
    properties = data.platform_data[1]
    return Advertisement(
        mac_address=normalise_mac(device.address),
        address_type="random" if properties.get("AddressType") == "random" else "public",
        rssi=None if data.rssi == _RSSI_UNKNOWN else data.rssi,
        timestamp=time.time(),
        local_name=data.local_name,
        manufacturer_data={company: (field,) for company, field in data.manufacturer_data.items()},
        service_data={
            uuid: field for service, field in data.service_data.items() if (uuid := _valid_uuid(service)) is not None
        },
        service_uuids=tuple(dict.fromkeys(uuid for text in data.service_uuids if (uuid := _valid_uuid(text)))),
        tx_power=data.tx_power,
        adapter=adapter,
    )


def _check_adapter(manager: BlueZManager, path: str) -> None:
    """Raise AdapterMissing if the adapter was removed or switched off; bleak only stops reporting then."""
    adapter = manager._properties.get(path, {}).get("org.bluez.Adapter1")
    if adapter is None:
        raise AdapterMissing("the Bluetooth adapter was removed", hint="See: bluetoothctl list")
    if not adapter["Powered"]:
        raise AdapterMissing("the Bluetooth adapter is switched off", hint=_POWER_ON)


def _valid_uuid(text: str) -> str | None:
    """Return the UUID in normal form; None drops an invalid one and keeps the rest of the advertisement."""
    try:
        return normalise_uuid(text)
    except AdvertisementError as error:
        _log.debug("%s", error)
        return None


async def _stop(scanner: BleakScanner) -> None:
    """Stop a scan that may have ended already."""
    try:
        await asyncio.wait_for(scanner.stop(), ANSWER)
    except (BleakError, OSError, EOFError, asyncio.TimeoutError) as error:
        _log.debug("the scan did not stop: %r", error)


def _connected(manager: BlueZManager) -> bool:
    """Return whether the connection to the D-Bus daemon is open; bleak does not report its end."""
    return manager._bus is not None and manager._bus.connected


async def _owner(manager: BlueZManager) -> str:
    """Return the unique bus name of the running BlueZ process; empty if it does not run."""
    if manager._bus is None or not manager._bus.connected:
        raise EOFError("the D-Bus daemon closed the connection")
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
    """Close the D-Bus connection, which bleak keeps open until the process exits."""
    if manager._bus is not None:
        manager._bus.disconnect()


@contextlib.contextmanager
def _translated(adapter: str | None) -> Iterator[None]:
    """Translate the exceptions of bleak, D-Bus and asyncio into a MqttkitError."""
    try:
        yield
    except asyncio.TimeoutError as error:
        raise AdapterStuck(f"BlueZ did not start the scan within {ANSWER:g} s", hint=_RESTART) from error
    except BleakBluetoothNotAvailableError as error:
        raise _not_available(error) from error
    except BleakDBusError as error:
        raise _refusal(error) from error
    except KeyError as error:
        raise AdapterStuck(f"BlueZ does not report {error}: it is too old for bleak", hint=_BLUEPY) from error
    except BleakError as error:
        if "passive" in str(error):
            raise AdapterMissing("this BlueZ cannot scan passively", hint=_EXPERIMENTAL) from error
        raise AdapterMissing(f"no Bluetooth adapter {adapter}: {error}", hint="See: bluetoothctl list") from error
    except (OSError, EOFError) as error:
        raise AdapterMissing(
            f"cannot reach BlueZ: there is no D-Bus system bus: {error}",
            hint=f"Try: systemctl start dbus bluetooth. {WITHOUT_RADIO}",
        ) from error


_SERVICE = "BlueZ, the Bluetooth service,"
_RESTART = "Try: systemctl restart bluetooth"
_POWER_ON = "Try: rfkill unblock bluetooth && bluetoothctl power on"
_EXPERIMENTAL = "Start bluetoothd with --experimental, or scan without --passive"
_BLUEPY = "Try: --source bluepy"
_GROUP = "Try: sudo usermod -aG bluetooth $USER, and log in again"


def _not_available(error: BleakBluetoothNotAvailableError) -> MqttkitError:
    """Return why bleak cannot use an adapter."""
    if error.reason is BleakBluetoothNotAvailableReason.DENIED_BY_SYSTEM:
        return PermissionMissing(f"D-Bus denies access to this user: {error.args[0]}", hint=_GROUP)
    if error.reason is BleakBluetoothNotAvailableReason.POWERED_OFF:
        return AdapterMissing("the Bluetooth adapter is switched off", hint=_POWER_ON)
    return AdapterMissing("BlueZ has no adapter for Bluetooth Low Energy", hint=WITHOUT_RADIO)


def _refusal(error: BleakDBusError) -> MqttkitError:
    """Return the meaning of a D-Bus error from BlueZ or from the bus."""
    kind = error.dbus_error.rpartition(".")[2]
    if kind in ("ServiceUnknown", "NameHasNoOwner", "ServiceNotFound", "SpawnFailed"):
        hint = f"Try: apt-get install bluez && systemctl start bluetooth. {WITHOUT_RADIO}"
        return AdapterMissing(f"{_SERVICE} is not running", hint=hint)
    if kind in ("AccessDenied", "NotAuthorized", "NotPermitted"):
        return PermissionMissing(f"BlueZ does not allow this user to scan: {error}", hint=_GROUP)
    if kind == "NotReady":
        return AdapterMissing("the Bluetooth adapter is switched off", hint=_POWER_ON)
    if kind in ("UnknownObject", "UnknownMethod"):
        return AdapterMissing(f"the Bluetooth adapter was removed: {error}", hint="See: bluetoothctl list")
    return AdapterStuck(f"BlueZ cannot scan: {error}", hint=_RESTART)
