"""The serial numbers of the client certificates that an authority has issued, so that they can be revoked by name."""

from __future__ import annotations

import json
from pathlib import Path

from mqttkit.errors import LifecycleError, reason_of
from mqttkit.files import write_secret

FILE = "issued.json"


def record_issued(authority: Path, name: str, serial: str) -> None:
    """Add the serial number of a certificate that was issued to a client."""
    issued = _read(authority)
    issued.setdefault(name, []).append(serial)
    write_secret(authority / FILE, json.dumps(issued, indent=2) + "\n")


def issued_serials(authority: Path, name: str) -> list[str]:
    """Return the serial numbers of every certificate of a client."""
    return _read(authority).get(name, [])


def _read(authority: Path) -> dict[str, list[str]]:
    try:
        values = json.loads((authority / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LifecycleError(f"cannot read the list of issued certificates: {reason_of(error)}") from error
    return {str(name): [str(serial) for serial in serials] for name, serials in values.items()}
