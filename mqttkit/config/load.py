"""Layers to settings: flags beat environment beats file beats profile beats defaults."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from mqttkit.config.convert import Mismatch, Surplus, convert
from mqttkit.config.located_values import Node
from mqttkit.config.profile_merge import PORT, fitting, usual_port
from mqttkit.config.rules import RULES, WORDS
from mqttkit.config.schema import Leaf, Section, root
from mqttkit.config.sources import Layer, find_config, from_environment, from_file, from_values, unknown_key
from mqttkit.errors import ConfigError
from mqttkit.settings import Settings

_log = logging.getLogger(__name__)

_REPLACES = {
    "mqtt.broker.host": "mqtt.broker.hosts",
    "mqtt.broker.hosts": "mqtt.broker.host",
    "mqtt.broker.password": "mqtt.broker.password_file",
    "mqtt.broker.password_file": "mqtt.broker.password",
}
"""A setting given in a stronger layer takes the place of the other one in a weaker layer."""


@dataclass(frozen=True)
class Effective:
    """Settings, and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By dotted path: `flag`, `environment variable NAME`, `file:line`, `profile` or `default`."""
    path: str | None
    """The settings file that was read; None where there was none."""


def load_settings(
    path: str | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    profile: Mapping[str, object],
    listeners: Sequence[Mapping[str, object]] = (),
) -> Effective:
    """Merge all sources; `path` None looks for ./mqttkit.yaml, then in XDG_CONFIG_HOME.

    `flags` and `profile` map dotted paths to values, None meaning not given; text is parsed as in the file.
    `listeners` hold what differs from `profile` at further listeners of its broker: the one that the stronger sources
    name counts. A profile is left out whole where they name another broker, and its user and password where they name
    another user. Raise ConfigError.
    """
    path = path if path is not None else find_config(environ)
    file_layer = from_file(path, environ) if path is not None else {}
    strong = (file_layer, from_environment(environ), from_values(flags, "flag"))
    offered = [from_values({**profile, **listener}, "profile") for listener in ({}, *listeners)]
    values = _merge((fitting(offered, _merge(strong)), *strong))
    values.setdefault(PORT, Node(usual_port(values), "default"))
    _warn_of_readable(path, values)
    _read_secret_files(values)
    origins = {leaf.path: _origin(leaf.path, values) for leaf in root().leaves()}
    return Effective(_build(root(), values), origins, path)


def _merge(layers: tuple[Layer, ...]) -> dict[str, Node]:
    """Lay each layer over the ones before it."""
    values: dict[str, Node] = {}
    optional = [section.path for section in root().sections() if section.optional]
    for layer in layers:
        given = {path for path, node in layer.items() if node.value is not None}
        if {"mqtt.broker.password", "mqtt.broker.password_file"} <= given:
            where = layer["mqtt.broker.password_file"].where
            raise ConfigError("mqtt.broker: give password or password_file, not both", where=where)
        for path in given:
            if _REPLACES.get(path) not in given:
                values.pop(_REPLACES.get(path, ""), None)
        values.update(layer)
        for section in optional:
            _switch(section, layer, values)
    return values


def _switch(section: str, layer: Layer, values: dict[str, Node]) -> None:
    """Put an optional section on where the layer sets something in it, off where the layer says so."""
    beneath = [path for path in layer if path.startswith(f"{section}.")]
    if section in layer and not _is_on(section, layer[section]):
        for path in [path for path in values if path.startswith(f"{section}.")]:
            del values[path]
    elif beneath:
        values[section] = Node("true", layer[beneath[0]].where)


def _is_on(section: str, node: Node) -> bool:
    try:
        return bool(convert(bool, node))
    except Mismatch as error:
        raise ConfigError(f"{section}: {error.expected}, got {node}", where=node.where) from error


def _origin(path: str, values: Mapping[str, Node]) -> str:
    return values[path].where if path in values else "default"


def _build(section: Section, values: Mapping[str, Node]) -> Any:
    """Build the dataclass of a section; None where it is optional and not asked for."""
    if section.optional and (section.path not in values or not convert(bool, values[section.path])):
        return None
    arguments: dict[str, Any] = {}
    for child in section.children:
        name = child.path.rpartition(".")[2]
        arguments[name] = _build(child, values) if isinstance(child, Section) else _value(child, values)
    try:
        return section.cls(**arguments)
    except ValueError as error:
        raise ConfigError(f"{section.path}: {error}") from error


def _value(leaf: Leaf, values: Mapping[str, Node]) -> Any:
    """Return the value of one setting, converted and checked."""
    if leaf.path not in values:
        if leaf.default is MISSING:
            raise ConfigError(f"{leaf.path}: is needed and not given")
        return leaf.default
    node = values[leaf.path]
    if isinstance(node.value, str) and node.value in WORDS.get(leaf.path, {}):
        return WORDS[leaf.path][node.value]
    rule = RULES.get(leaf.path)
    try:
        value = convert(leaf.kind | None if leaf.optional else leaf.kind, node)
    except Mismatch as error:
        at_leaf = rule is not None and error.node is node
        expected = f"must be {rule.expected}" if rule is not None and at_leaf else error.expected
        raise _bad(leaf, expected, error.node) from error
    except Surplus as error:
        raise unknown_key(f"{leaf.path}.{error.key}", error.node.where) from error
    problem = rule.problem(value) if rule is not None and value is not None else ""
    if problem:
        raise _bad(leaf, problem, node)
    return _located(leaf, value, node)


def _bad(leaf: Leaf, problem: str, node: Node) -> ConfigError:
    got = f", got {node}" if problem.startswith("must be") and not leaf.secret else ""
    return ConfigError(f"{leaf.path}: {problem}{got}", where=node.where)


def _located(leaf: Leaf, value: Any, node: Node) -> Any:
    """Return a file name with ~ expanded, relative to the file that names it; other values as they are."""
    if not leaf.path.endswith("_file") or not isinstance(value, str):
        return value
    return str(Path(node.base) / Path(value).expanduser())


def _read_secret_files(values: dict[str, Node]) -> None:
    """Give each secret the first line of its `..._file` where that is set."""
    leaves = {leaf.path: leaf for leaf in root().leaves()}
    for leaf in leaves.values():
        file_leaf = leaves.get(f"{leaf.path}_file")
        if not leaf.secret or file_leaf is None or file_leaf.path not in values:
            continue
        name = _value(file_leaf, values)
        where = values[file_leaf.path].where
        if name is not None:
            values[leaf.path] = Node(_first_line(name, where, file_leaf.path), f"{where} (file {name})")


def _first_line(name: str, where: str, path: str) -> str:
    try:
        with Path(name).open(encoding="utf-8", newline="") as stream:
            mode = stat.S_IMODE(Path(name).stat().st_mode)
            line = stream.readline(65_536)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read {name}: {cause}", where=where) from error
    if mode & stat.S_IROTH:
        _log.warning("%s can be read by everybody: chmod 600 %s", name, name)
    line = line.rstrip("\r\n")
    if not line:
        raise ConfigError(f"{path}: the first line of {name} is empty", where=where)
    return line


def _warn_of_readable(path: str | None, values: Mapping[str, Node]) -> None:
    """Warn where the file holds a secret in clear and everybody can read it."""
    if path is None or not stat.S_IMODE(Path(path).stat().st_mode) & stat.S_IROTH:
        return
    for leaf in root().leaves():
        node = values.get(leaf.path)
        if leaf.secret and node and node.value and node.where.startswith(f"{path}:") and "${" not in node.shown:
            _log.warning("%s holds a password and can be read by everybody: chmod 600 %s", path, path)
            return
