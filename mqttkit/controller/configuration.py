"""From a controller's settings to its codec, files and addresses."""

from __future__ import annotations

import re
from pathlib import Path

from mqttkit.addresses import parse_address
from mqttkit.controller.security.gate import Codec, PlainCodec, SignedCodec
from mqttkit.controller.security.keys import KeyFile
from mqttkit.directories import state_directory
from mqttkit.errors import ConfigError, UsageError
from mqttkit.settings import ControllerSettings


def open_codec(settings: ControllerSettings, *, signs: bool = True) -> Codec:
    """Return the codec for these settings; raise UsageError if the key ring has no key for it.

    `signs` False needs keys that verify only, such as those of a watcher.
    """
    if settings.unsigned:
        return PlainCodec(max_bytes=settings.max_message_bytes)
    keys = KeyFile(key_file(settings))
    if signs:
        keys.ring.signer(settings.id)
    elif not keys.ring.keys:
        raise UsageError("the key ring is empty", hint="Add a key with: mqttkit controller key add FILE")
    return SignedCodec(keys, max_bytes=settings.max_message_bytes)


def required_id(settings: ControllerSettings) -> str:
    """Return the controller's identifier; raise ConfigError without one."""
    if settings.id is None:
        raise ConfigError("a controller needs an identifier", where="controller.id", hint="Give one: --id NAME")
    return settings.id


def key_file(settings: ControllerSettings) -> Path:
    """Return the path of the key ring."""
    return Path(settings.key_file) if settings.key_file else _state_directory() / "keys.json"


def state_file(settings: ControllerSettings) -> Path:
    """Return the path of the controller's store."""
    if settings.state_file:
        return Path(settings.state_file)
    return _state_directory() / (re.sub(r"[^A-Za-z0-9_.-]", "_", settings.id or "controller") + ".db")


def listen_address(text: str) -> tuple[str, int]:
    """Split `host:port`; port 0 picks a free port. Raise ConfigError."""
    host, colon, port = text.rpartition(":")
    if colon and port == "0" and host:
        return host.strip("[]"), 0
    try:
        return parse_address(text, 8088)
    except ValueError as error:
        raise ConfigError(str(error), where="controller.http_listen") from error


def _state_directory() -> Path:
    return state_directory() / "controllers"
