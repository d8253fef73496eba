"""What this machine has for a Bluetooth scan, and what is wrong where it has not."""

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
"""Of bluetooth/bluetooth.h; a Python built without its headers has no names for them."""
_NEEDED = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN and CAP_NET_RAW (linux/capability.h)."""


@dataclass(frozen=True)
class Machine:
    """Where to look; the defaults are those of every Linux."""

    sys_class: Path = Path("/sys/class/bluetooth")
    dbus_socket: Path = Path("/run/dbus/system_bus_socket")

    def adapters(self) -> list[str]:
        """Return the adapters that the kernel knows, such as hci0, in order."""
        try:
            return sorted(entry.name for entry in self.sys_class.iterdir() if ":" not in entry.name)
        except OSError:
            return []  # no Bluetooth in this kernel, or a container that does not see it

    def has_dbus(self) -> bool:
        """Tell whether there is a D-Bus system bus."""
        return "DBUS_SYSTEM_BUS_ADDRESS" in os.environ or self.dbus_socket.exists()

    def has_bluetooth_sockets(self) -> bool:
        """Tell whether the kernel has AF_BLUETOOTH; a refusal to let us use it counts as yes."""
        try:
            socket.socket(_AF_BLUETOOTH, socket.SOCK_RAW, _BTPROTO_HCI).close()
        except OSError as error:
            return error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
        return True

    def need_adapter(self, adapter: str | None) -> None:
        """Raise AdapterMissing where the kernel has not got this adapter, or any where it is None."""
        adapters = self.adapters()
        if not adapters:
            raise AdapterMissing("this machine has no Bluetooth adapter", hint=WITHOUT_RADIO)
        if adapter is not None and adapter not in adapters:
            there = ", ".join(adapters)
            raise AdapterMissing(f"no Bluetooth adapter {adapter}: there is {there}", hint=f"Try --adapter {there}")

    def why_not(self, adapter: str, helper: str, complaint: str) -> MqttkitError:
        """Return what keeps bluepy's helper, which only says `complaint`, from using the adapter."""
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
        raise UsageError(f"adapter {adapter!r} is none such as hci0")
    return int(found.group(1))


def has_capabilities(program: str) -> bool:
    """Tell whether a program file bears the capabilities that raw Bluetooth needs (capabilities(7))."""
    try:
        attribute = os.getxattr(program, "security.capability")
    except OSError:
        return False
    _, permitted = struct.unpack_from("<II", attribute)
    return bool(permitted & _NEEDED == _NEEDED)


def permission_missing(helper: str) -> PermissionMissing:
    """Return the error that names the command which lets the helper scan."""
    command = f"sudo setcap cap_net_raw,cap_net_admin+eip {helper}"
    return PermissionMissing(
        "bluepy's helper may not use Bluetooth (cap_net_raw, cap_net_admin)", hint=f"Try: {command}"
    )


def reset_hint(adapter: str) -> str:
    """Return the sentence that says how to reset an adapter."""
    return f"Try: sudo hciconfig {adapter} reset, or unplug it and plug it in again"
