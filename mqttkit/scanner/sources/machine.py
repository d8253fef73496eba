"""The Bluetooth adapters, D-Bus and permissions of this machine, and what is missing for a scan."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from mqttkit.errors import AdapterMissing, AdapterStuck, MqttkitError, PermissionMissing, UsageError

WITHOUT_RADIO = "Without a radio: --source simulated or --source replay:FILE"

_AF_BLUETOOTH, _BTPROTO_HCI = 31, 1
"""From bluetooth/bluetooth.h; a Python built without that header lacks the names."""
_NEEDED = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN and CAP_NET_RAW (linux/capability.h)."""


@dataclass(frozen=True)
class Machine:
    """The paths to look at; the defaults suit every Linux."""

    sys_class: Path = Path("/sys/class/bluetooth")
    dbus_socket: Path = Path("/run/dbus/system_bus_socket")

    def adapters(self) -> list[str]:
        """Return the names of the adapters in the kernel, such as hci0, sorted."""
        try:
            return sorted(entry.name for entry in self.sys_class.iterdir() if ":" not in entry.name)
        except OSError:
            return []  # a kernel without Bluetooth, or a container without access

    def has_dbus(self) -> bool:
        """Return whether there is a D-Bus system bus."""
        return "DBUS_SYSTEM_BUS_ADDRESS" in os.environ or self.dbus_socket.exists()

    def has_bluetooth_sockets(self) -> bool:
        """Return whether the kernel has AF_BLUETOOTH, even if this process may not use it."""
        try:
            socket.socket(_AF_BLUETOOTH, socket.SOCK_RAW, _BTPROTO_HCI).close()
        except OSError as error:
            return error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
        return True

    def need_adapter(self, adapter: str | None) -> None:
        """Raise AdapterMissing if the kernel does not have this adapter, or has none at all if it is None."""
        adapters = self.adapters()
        if not adapters:
            raise AdapterMissing("this machine has no Bluetooth adapter", hint=WITHOUT_RADIO)
        if adapter is not None and adapter not in adapters:
            available = ", ".join(adapters)
            raise AdapterMissing(
                f"no Bluetooth adapter {adapter}; available: {available}", hint=f"Try: --adapter {adapters[0]}"
            )

    def why_not(self, adapter: str, helper: str, complaint: str) -> MqttkitError:
        """Return why bluepy's helper cannot use the adapter; the helper itself only reports `complaint`."""
        if not self.has_bluetooth_sockets():
            return AdapterMissing("this kernel has no Bluetooth", hint=f"Try: modprobe bluetooth. {WITHOUT_RADIO}")
        try:
            self.need_adapter(adapter)
        except AdapterMissing as error:
            return error
        if os.geteuid() != 0 and not has_capabilities(helper):
            return permission_missing(helper)
        return AdapterStuck(f"Bluetooth adapter {adapter} does not scan: {complaint}", hint=reset_hint(adapter))


def adapter_number(adapter: str | None) -> int:
    """Return 1 of hci1, 0 of None; raise UsageError."""
    if adapter is None:
        return 0
    found = re.fullmatch(r"(?:hci)?(\d{1,4})", adapter)
    if not found:
        raise UsageError(f"adapter {adapter!r} is not a name such as hci0")
    return int(found.group(1))


def has_capabilities(program: str) -> bool:
    """Return whether a program file has the capabilities for raw Bluetooth sockets (capabilities(7))."""
    try:
        attribute = os.getxattr(program, "security.capability")
    except OSError:
        return False
    _, permitted = struct.unpack_from("<II", attribute)
    return bool(permitted & _NEEDED == _NEEDED)


def permission_missing(helper: str) -> PermissionMissing:
    """Return the error with the command that lets the helper scan."""
    command = f"sudo setcap cap_net_raw,cap_net_admin+eip {helper}"
    return PermissionMissing(
        "bluepy's helper may not use Bluetooth (cap_net_raw, cap_net_admin)", hint=f"Try: {command}"
    )


def reset_hint(adapter: str) -> str:
    """Return a hint that explains how to reset an adapter."""
    return f"Try: sudo hciconfig {adapter} reset, or unplug it and plug it in again"
