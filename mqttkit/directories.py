"""The user's own directories, as the XDG Base Directory Specification defines them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of what mqttkit must remember: $XDG_STATE_HOME/mqttkit."""
    return _base(environ.get("XDG_STATE_HOME", ""), ".local/state") / "mqttkit"


def config_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of the user's settings: $XDG_CONFIG_HOME/mqttkit."""
    return _base(environ.get("XDG_CONFIG_HOME", ""), ".config") / "mqttkit"


def _base(path: str, default: str) -> Path:
    """Return an absolute path as it is; the specification says to ignore a relative one."""
    return Path(path) if path.startswith("/") else Path.home() / default
