"""The settings of decoding: which advertisements are read, and what is published about each device. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mqttkit.settings.rules import TOPIC_FILTER, TOPIC_NAME, Checked, Duration, Seconds, template


@dataclass(frozen=True, kw_only=True)
class DecodeSettings(Checked):
    """How advertisements become states of devices."""

    raw: Annotated[str, TOPIC_FILTER] = "ble/raw/#"
    """Topic filter of the advertisements."""
    state: Annotated[str, template("mac_address")] = "ble/state/{mac_address}"
    """Topic template of the states, which are retained."""
    status: Annotated[str, TOPIC_NAME] = "ble/decode/status"
    """Topic of the retained `online` or `offline` of decode itself."""
    gateway_status: Annotated[str | None, template("scanner_id")] = None
    """Topic template of the gateways' status, with {scanner_id}; entities are available while one of them is online."""
    discovery: bool = True
    """Publish discovery messages for Home Assistant."""
    prefix: Annotated[str, TOPIC_NAME] = "homeassistant"
    """Discovery prefix of Home Assistant."""
    away_after: Seconds = 300.0
    """Seconds of silence after which a device is away."""
    window: Duration = 2.0
    """Seconds in which the same content from another gateway is the same advertisement."""
    keys_file: str | None = None
    """File of bind keys: a MAC address and a key in hex on each line."""
    theengs: bool = False
    """Ask Theengs Decoder about devices that no other decoder knows."""
