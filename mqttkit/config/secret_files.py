"""Read a secret from its file, such as `password_file`."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from mqttkit.errors import ConfigError

_log = logging.getLogger(__name__)


def read_secret(name: str, where: str, path: str) -> str:
    """Return the first line of the file `name`, which the setting `path` names; raise ConfigError."""
    try:
        with Path(name).open(encoding="utf-8", newline="") as stream:
            mode = stat.S_IMODE(Path(name).stat().st_mode)
            line = stream.readline(65_536)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read {name}: {cause}", where=where) from error
    if mode & stat.S_IROTH:
        _log.warning("every user can read %s. Run: chmod 600 %s", name, name)
    line = line.rstrip("\r\n")
    if not line:
        raise ConfigError(f"{path}: the first line of {name} is empty", where=where)
    return line
