"""JSON objects in the files of a broker's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mqttkit.errors import LifecycleError

_DAMAGED = "Restore a backup, or remove the file: then `mqttkit broker up` writes it again and keeps users and data"


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if there is no such file; raise LifecycleError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LifecycleError(f"cannot read {path}: {error.strerror}") from error
    return parse_object(content, path)


def parse_object(content: bytes, path: Path | str) -> dict[str, Any]:
    """Return the JSON object in the content of a file; raise LifecycleError that names the file."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise LifecycleError(f"{path} is not valid JSON: {error}", hint=_DAMAGED) from error
    if not isinstance(values, dict):
        raise LifecycleError(f"{path} does not contain a JSON object", hint=_DAMAGED)
    return values
