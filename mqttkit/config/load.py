"""Merge all sources into settings: flags beat environment beats file beats profile beats defaults."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mqttkit.config.convert import Mismatch, Surplus, convert
from mqttkit.config.located_values import LocatedValue
from mqttkit.config.profile_merge import PORT, fitting, usual_port
from mqttkit.config.schema import Leaf, Section, key_of, root
from mqttkit.config.secret_files import read_secret
from mqttkit.config.sources import Layer, find_config, from_environment, from_file, from_values, unknown_key
from mqttkit.errors import ConfigError
from mqttkit.settings import Settings
from mqttkit.settings.rules import Checked, lacks_value

_log = logging.getLogger(__name__)

_REPLACES = {
    "mqtt.broker.host": ("mqtt.broker.hosts", "mqtt.broker.unix_socket"),
    "mqtt.broker.hosts": ("mqtt.broker.host", "mqtt.broker.unix_socket"),
    "mqtt.broker.password": ("mqtt.broker.password_file",),
    "mqtt.broker.password_file": ("mqtt.broker.password",),
    "bridge.outputs": ("bridge.sink",),
}
"""A setting in a stronger layer replaces the others in a weaker layer."""


_FILE_PREFIXES = {
    "mqtt.broker.unix_socket": ("",),
    "bridge.sink": ("sqlite:", "jsonl:"),
    "bridge.tenants": ("sqlite:", ""),
    "bridge.dead_letters": ("",),
    "bridge.job_format": ("file:",),
    "bridge.outputs.sink": ("sqlite:", "jsonl:"),
    "bridge.outputs.dead_letters": ("",),
    "bridge.outputs.job_format": ("file:",),
    "scanner.source": ("replay:",),
}
"""By dotted path: what precedes a file name in settings that may also name something else."""


@dataclass(frozen=True)
class Effective:
    """Settings, and the source of each."""

    settings: Settings
    origins: Mapping[str, str]
    """By dotted path: `flag`, `environment variable NAME`, `file:line`, `profile` or `default`."""
    path: str | None
    """The settings file; None if there was none."""


def load_settings(
    path: str | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    profile: Mapping[str, object],
    listeners: Sequence[Mapping[str, object]] = (),
) -> Effective:
    """Merge all sources; `path` None looks for ./mqttkit.yaml, then in XDG_CONFIG_HOME.

    `flags` and `profile` map dotted paths to values; None means not given, and text is parsed as in the file. A flag
    may come with the name that an error shows: `{"bridge.sink": given(value, "--sink")}`.
    `listeners` hold what differs from `profile` at further listeners of its broker: the loader picks the listener that
    the stronger sources name. It skips the profile if they name another broker, and the profile's user and password if
    they name another user. Raise ConfigError.
    """
    path = path if path is not None else find_config(environ)
    file_layer = from_file(path, environ) if path is not None else {}
    strong = (file_layer, from_environment(environ), from_values(flags, "flag"))
    offered = [from_values({**profile, **listener}, "profile") for listener in ({}, *listeners)]
    values = _merge((fitting(offered, _merge(strong)), *strong))
    values.setdefault(PORT, LocatedValue(usual_port(values), "default"))
    _warn_of_readable(path, values)
    _read_secret_files(values)
    origins = {leaf.path: _origin(leaf.path, values) for leaf in root().leaves()}
    return Effective(_build(root(), values), origins, path)


def _merge(layers: tuple[Layer, ...]) -> dict[str, LocatedValue]:
    """Return the values of all layers; each layer overrides the ones before it."""
    values: dict[str, LocatedValue] = {}
    optional = [section.path for section in root().sections() if section.optional]
    for layer in layers:
        given = {path for path, node in layer.items() if node.value is not None}
        if {"mqtt.broker.password", "mqtt.broker.password_file"} <= given:
            where = layer["mqtt.broker.password_file"].where
            raise ConfigError("mqtt.broker: give password or password_file, not both", where=where)
        for replaced in {other for path in given for other in _REPLACES.get(path, ())} - given:
            values.pop(replaced, None)
        values.update(layer)
        for section in optional:
            _switch(section, layer, values)
    return values


def _switch(section: str, layer: Layer, values: dict[str, LocatedValue]) -> None:
    """Switch an optional section on if the layer sets something in it, off if the layer sets it to null or off."""
    inside = [path for path in layer if path.startswith(f"{section}.")]
    if section in layer and not _is_on(section, layer[section]):
        for path in [path for path in values if path.startswith(f"{section}.")]:
            del values[path]
    elif inside:
        values[section] = LocatedValue("true", layer[inside[0]].where)


def _is_on(section: str, node: LocatedValue) -> bool:
    try:
        return bool(convert(bool, node))
    except Mismatch as error:
        raise ConfigError(f"{section}: {error.expected}", where=node.where, got=str(node)) from error


def _origin(path: str, values: Mapping[str, LocatedValue]) -> str:
    return values[path].where if path in values else "default"


def _build(section: Section, values: Mapping[str, LocatedValue]) -> Any:
    """Build the dataclass of a section; None if it is optional and switched off."""
    if section.optional and (section.path not in values or not convert(bool, values[section.path])):
        return None
    arguments: dict[str, Any] = {}
    for child in section.children:
        arguments[key_of(child)] = _build(child, values) if isinstance(child, Section) else _value(child, values)
    try:
        return section.cls(**arguments)
    except ConfigError as error:
        raise _located_error(section, error, values) from error
    except ValueError as error:
        raise ConfigError(f"{section.path}: {error}") from error


def _located_error(section: Section, error: ConfigError, values: Mapping[str, LocatedValue]) -> ConfigError:
    """Return the error of a settings object with dotted path, source and line in place of class and field."""
    leaf = section.child(error.field)
    if not isinstance(leaf, Leaf) or leaf.path not in values:
        return error
    return _bad(leaf, error.problem, values[leaf.path])


def _value(leaf: Leaf, values: Mapping[str, LocatedValue]) -> Any:
    """Return the value of one setting as its type; its settings object checks the rest."""
    if leaf.path not in values:
        if leaf.default is MISSING:
            raise ConfigError(f"{leaf.path}: is required")
        return leaf.default
    node = values[leaf.path]
    if leaf.rule is not None and leaf.rule.null_word and node.value == leaf.rule.null_word:
        return None
    try:
        value = convert(leaf.kind | None if leaf.optional else leaf.kind, node)
    except Mismatch as error:
        at_leaf = leaf.rule is not None and error.node is node
        expected = f"must be {leaf.rule.expected}" if leaf.rule is not None and at_leaf else error.expected
        raise _bad(leaf, expected, error.node) from error
    except Surplus as error:
        raise unknown_key(f"{leaf.path}.{error.key}", error.node.where) from error
    return _located(leaf.path, value, node)


def _bad(leaf: Leaf, problem: str, node: LocatedValue) -> ConfigError:
    got = str(node) if lacks_value(problem) and not leaf.secret else ""
    return ConfigError(f"{leaf.path}: {problem}", where=node.where, got=got)


def _located(path: str, value: Any, node: LocatedValue) -> Any:
    """Return a file name with ~ expanded, relative to the settings file that names it; other values unchanged."""
    if isinstance(value, tuple):
        return tuple(_with_located_fields(path, item, node) for item in value)
    if not isinstance(value, str):
        return value
    if path.endswith("_file"):
        return str(Path(node.base) / Path(value).expanduser())
    for prefix in _FILE_PREFIXES.get(path, ()) if node.base else ():
        name = value.removeprefix(prefix)
        if value.startswith(prefix) and name and "://" not in name and not name.startswith(":"):
            return prefix + str(Path(node.base) / Path(name).expanduser())
    return value


def _with_located_fields(path: str, item: Any, node: LocatedValue) -> Any:
    """Return an item of a list of settings with located file names."""
    if not isinstance(item, Checked):
        return item
    values = {one.name: getattr(item, one.name) for one in fields(item)}  # type: ignore[arg-type]
    located = {name: _located(f"{path}.{name}", value, node) for name, value in values.items()}
    return type(item)(**located)


def _read_secret_files(values: dict[str, LocatedValue]) -> None:
    """Set each secret to the first line of its `..._file`, if that is set."""
    leaves = {leaf.path: leaf for leaf in root().leaves()}
    for leaf in leaves.values():
        file_leaf = leaves.get(f"{leaf.path}_file")
        if not leaf.secret or file_leaf is None or file_leaf.path not in values:
            continue
        name = _value(file_leaf, values)
        where = values[file_leaf.path].where
        if name is not None:
            values[leaf.path] = LocatedValue(read_secret(name, where, file_leaf.path), f"{where} (file {name})")


def _warn_of_readable(path: str | None, values: Mapping[str, LocatedValue]) -> None:
    """Warn if the file holds a secret in plain text and every user can read it."""
    if path is None or not stat.S_IMODE(Path(path).stat().st_mode) & stat.S_IROTH:
        return
    for leaf in root().leaves():
        node = values.get(leaf.path)
        if leaf.secret and node and node.value and node.where.startswith(f"{path}:") and "${" not in node.shown:
            _log.warning("%s holds a password, and every user can read it. Run: chmod 600 %s", path, path)
            return
