"""Known devices: names for addresses, including changing ones, and which devices to keep. From one YAML file.

A device that changes its address has an identity resolving key (IRK), with which its resolvable private addresses can
be recognised (Bluetooth Core 5.4, Vol 6, Part B, 1.3.2.3).
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mqttkit.config.convert import Mismatch, Surplus, convert
from mqttkit.config.yaml_reader import read_file
from mqttkit.errors import AdvertisementError, ConfigError
from mqttkit.scanner.advertisement import Advertisement, normalise_mac

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Seconds between two looks at the file."""
_RESOLVABLE = 0b01
"""The two most significant bits of a resolvable private address."""


@dataclass(frozen=True)
class KnownDevice:
    """One entry of the file; it needs `address` or `irk`."""

    address: str | None = None
    """MAC address."""
    irk: str | None = None
    """Identity resolving key, 16 bytes in hex, most significant first."""
    deny: bool = False
    """Drop its advertisements."""
    interval: float = 0.0
    """Pass at most one advertisement in so many seconds; 0 passes everything."""


@dataclass(frozen=True)
class IdentityFile:
    """The contents of the file."""

    devices: Mapping[str, KnownDevice]
    """By name."""
    only_known: bool = False
    """Drop every other device."""


class Identities:
    """Names devices and decides which to keep. The file is read again when it changes; a broken one changes nothing."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; raise ConfigError."""
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._next_look = clock() + CHECK_SECONDS
        self._passed: dict[str, float] = {}
        self._use(read_identities(path))

    def identify(self, advertisement: Advertisement) -> tuple[str, Advertisement | None]:
        """Return a cause to drop the advertisement, or an empty text and the advertisement with its alias."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + CHECK_SECONDS
            self._look()
        name = self._find(advertisement.mac_address, advertisement.address_type)
        if name is None:
            return ("unknown", None) if self._file.only_known else ("", advertisement)
        device = self._file.devices[name]
        if device.deny:
            return "denied", None
        if device.interval and now - self._passed.get(name, -device.interval) < device.interval:
            return "interval", None
        self._passed[name] = now
        return "", replace(advertisement, alias=name)

    def _look(self) -> None:
        """Read the file again if it has changed."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._use(read_identities(self._path))
        except ConfigError as error:
            log.error("%s. The previous identities stay in use", error)  # noqa: TRY400 - the message is enough
        else:
            log.info("read %s again: %d devices", self._path, len(self._file.devices))

    def _use(self, file: IdentityFile) -> None:
        self._file = file
        by_address = {normalise_mac(item.address): name for name, item in file.devices.items() if item.address}
        keys = [(bytes.fromhex(item.irk), name) for name, item in file.devices.items() if item.irk]

        def find(mac_address: str, address_type: str) -> str | None:
            found = by_address.get(mac_address)
            if found is None and keys and address_type == "random":
                return next((name for key, name in keys if resolves(mac_address, key)), None)
            return found

        self._find = functools.lru_cache(maxsize=4_096)(find)


def resolves(mac_address: str, irk: bytes) -> bool:
    """Return whether a device with this IRK made the address (Core 5.4, Vol 3, Part H, 2.2.2)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    address = bytes.fromhex(mac_address.replace(":", ""))
    if address[0] >> 6 != _RESOLVABLE:
        return False
    encryptor = Cipher(algorithms.AES(irk), modes.ECB()).encryptor()  # noqa: S305 - one block, as the specification says
    return encryptor.update(bytes(13) + address[:3])[-3:] == address[3:]


def read_identities(path: str) -> IdentityFile:
    """Read and check the file; raise ConfigError with the line."""
    node = read_file(path, os.environ)
    try:
        file: IdentityFile = convert(IdentityFile, node)
    except Mismatch as error:
        raise ConfigError(str(error), where=error.node.where) from None
    except Surplus as error:
        known = ", ".join(error.known)
        raise ConfigError(f"unknown key {error.key!r}; known are {known}", where=error.node.where) from None
    for name, device in file.devices.items():
        try:
            _check(device)
        except (AdvertisementError, ValueError) as error:
            raise ConfigError(f"device {name!r}: {error}", where=path) from None
    return file


def _check(device: KnownDevice) -> None:
    """Raise AdvertisementError or ValueError, without the key in it."""
    if (device.address is None) == (device.irk is None):
        raise ValueError("give either address or irk")
    if device.address is not None:
        normalise_mac(device.address)
    if device.irk is not None and not _is_key(device.irk):
        raise ValueError("irk is not 16 bytes in hex")
    if device.interval < 0:
        raise ValueError("interval must not be below 0")


def _is_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 16
    except ValueError:
        return False


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
