"""Reads a scenario from a YAML file; errors name the file and the line."""

from __future__ import annotations

from collections.abc import Mapping

from mqttkit.config.convert import Mismatch, Surplus, convert
from mqttkit.config.yaml_reader import read_file
from mqttkit.errors import ConfigError, UsageError
from mqttkit.nodes.plan import Scenario


def load_scenario(path: str, environ: Mapping[str, str]) -> Scenario:
    """Return the scenario in a file; raise ConfigError."""
    node = read_file(path, environ, hint="FILE is a scenario in YAML. For one without a file: mqttkit node sensor")
    try:
        found: Scenario = convert(Scenario, node)
    except Mismatch as error:
        got = f", got {error.node}" if error.expected.startswith("must be") else ""
        raise ConfigError(f"{error.expected}{got}", where=error.node.where) from error
    except Surplus as error:
        known = ", ".join(error.known)
        raise ConfigError(f"unknown key {error.key!r}", where=error.node.where, hint=f"There are {known}") from error
    except UsageError as error:
        raise ConfigError(str(error), where=path) from error
    return found
