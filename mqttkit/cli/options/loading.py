"""The settings of a command: flags, environment, file, and the profile of a local broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mqttkit.addresses import BrokerUrl
from mqttkit.cli.options.setting_option import given_settings
from mqttkit.directories import state_directory
from mqttkit.errors import UsageError
from mqttkit.settings import Settings

config_option: Callable[[Any], Any] = click.option(
    "--config", metavar="FILE", type=click.Path(), help="Settings file.  [mqttkit.yaml, if there is one]"
)


def load(config: str | None, *, url: BrokerUrl | None = None, broker_name: str = "default") -> Settings:
    """Load the settings of the running command. Its options override `url`. Raise ConfigError.

    The profile of the local broker `broker_name` fills in what no stronger source sets.
    """
    from mqttkit.config import load_settings, url_values

    flags = {**(url_values(url) if url else {}), **_flags()}
    profile, *listeners = profile_values(broker_name)
    return load_settings(config, environ=os.environ, flags=flags, profile=profile, listeners=listeners).settings


def load_without_broker(config: str | None) -> Settings:
    """Load the settings of a command that connects to no broker. Raise ConfigError."""
    from mqttkit.config import load_settings

    return load_settings(config, environ=os.environ, flags=_flags(), profile={}).settings


def _flags() -> dict[str, object]:
    from mqttkit.config.located_values import given

    return {path: given(one.value, one.option) for path, one in given_settings().items()}


def profile_values(broker_name: str = "default") -> list[dict[str, Any]]:
    """Return the settings that the broker's profile gives, by dotted path, then the differences of each listener.

    Raise UsageError for an unknown name.
    """
    if broker_name == "default" and not os.path.lexists(default_profile()):
        return [{}]
    from mqttkit.broker.profile import broker_names, load_profile

    profile = load_profile(broker_name)
    if profile is None:
        if broker_name != "default":
            names = ", ".join(broker_names()) or "none"
            raise UsageError(f"no broker named {broker_name!r}", hint=f"`mqttkit broker up` has set up: {names}")
        return [{}]
    plain = {"mqtt.broker": profile.to_broker_settings(), "mqtt.client.version": profile.version}
    return [plain, *profile.further_listeners()]


def default_profile() -> Path:
    """Return the path of the default broker's profile, the same as `BrokerPaths` computes.

    Importing the broker package would take a tenth of a short command's time.
    """
    return state_directory() / "brokers" / "default" / "profile.json"
