"""Bind keys of devices that encrypt their data, from a file."""

from __future__ import annotations

from pathlib import Path

from mqttkit.errors import AdvertisementError, ConfigError
from mqttkit.scanner.advertisement import normalise_mac

_LENGTHS = (12, 16)
"""Bytes of a key: MiBeacon before version 4, and BTHome and MiBeacon since."""


def read_keys(path: str) -> dict[str, bytes]:
    """Return the bind keys by MAC address; raise ConfigError, which never contains a key.

    Each line is a MAC address and a key in hex; `#` starts a comment.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read bind keys {path}: {error}") from error
    keys = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            mac_address, key = normalise_mac(words[0]), bytes.fromhex("".join(words[1:]))
        except (AdvertisementError, ValueError) as error:
            problem = str(error) if isinstance(error, AdvertisementError) else "the key is not hex"
            raise ConfigError(f"{path}:{number}: {problem}") from None
        if len(key) not in _LENGTHS:
            raise ConfigError(f"{path}:{number}: the key has {len(key)} bytes; a bind key has 12 or 16")
        keys[mac_address] = key
    return keys
