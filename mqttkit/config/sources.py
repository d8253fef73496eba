"""Read each source of settings into one layer, a mapping from dotted path to node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from mqttkit.addresses import BrokerUrl
from mqttkit.config.located_values import LocatedValue, given
from mqttkit.config.schema import Section, key_of, root
from mqttkit.directories import config_directory
from mqttkit.errors import ConfigError

Layer = Mapping[str, LocatedValue]

FILE_NAME = "mqttkit.yaml"
SHORT_FORMS = {
    "MQTTKIT_HOST": "mqtt.broker.host",
    "MQTTKIT_PORT": "mqtt.broker.port",
    "MQTTKIT_USERNAME": "mqtt.broker.username",
    "MQTTKIT_PASSWORD": "mqtt.broker.password",
}
OTHER_VARIABLES = ("MQTTKIT_CONFIG",)
"""Variables that mqttkit reads and that are not settings."""
_SWITCH = ("true", "yes", "on", "1", "false", "no", "off", "0")
_log = logging.getLogger(__name__)


def config_path(environ: Mapping[str, str]) -> str:
    """Return the user's own settings file: $XDG_CONFIG_HOME/mqttkit/mqttkit.yaml."""
    return str(config_directory(environ) / FILE_NAME)


def find_config(environ: Mapping[str, str]) -> str | None:
    """Return the settings file to use if the user names none; None if there is none."""
    named = environ.get("MQTTKIT_CONFIG")
    if named:
        return named
    return next((path for path in (FILE_NAME, config_path(environ)) if Path(path).is_file()), None)


def from_file(path: str, environ: Mapping[str, str]) -> Layer:
    """Return the settings of a YAML file; raise ConfigError."""
    from mqttkit.config.yaml_reader import read_file

    return flatten(read_file(path, environ, hint="Write one: mqttkit config init"), root())


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Return the settings of MQTTKIT_... variables; an empty one means not set. Raise ConfigError."""
    known = variables()
    layer: dict[str, LocatedValue] = {}
    for name, value in environ.items():
        if not name.startswith("MQTTKIT_") or not value:
            continue
        if name not in known:
            _warn_of_unknown(name, known)
            continue
        path = known[name]
        if path in layer and layer[path].value != value:
            raise ConfigError("differs from the other variable for the same setting", where=_variable(name))
        layer[path] = LocatedValue(value, _variable(name), splits=True)
    return layer


def from_values(values: Mapping[str, object], where: str) -> Layer:
    """Return the settings of flags or of a profile, by dotted path; None means not given."""
    layer: dict[str, LocatedValue] = {}
    for path, value in values.items():
        node = given(_plain(value), where)
        if node.value is None:
            continue
        target: object = root()
        for part in path.split("."):
            target = target.child(part) if isinstance(target, Section) else None
        if target is None:
            raise unknown_key(path, node.where)
        if isinstance(target, Section):
            layer.update(flatten(node, target))
        else:
            layer[path] = node
    return layer


def url_values(url: BrokerUrl) -> dict[str, object]:
    """Return the settings in a broker's URL by dotted path, without its path."""
    values: dict[str, object] = {"mqtt.broker.host": url.host, "mqtt.broker.port": url.port}
    if url.username:
        values["mqtt.broker.username"] = url.username
    if url.password:
        values["mqtt.broker.password"] = url.password
    if url.tls:
        values["mqtt.broker.tls.insecure"] = False
    if url.websockets:
        values["mqtt.broker.transport"] = "websockets"
    return values


def variables() -> dict[str, str]:
    """Return the dotted path that each environment variable sets, by its name."""
    paths = [leaf.path for leaf in root().leaves()]
    paths += [section.path for section in root().sections() if section.optional]
    return {"MQTTKIT_" + path.replace(".", "_").upper(): path for path in paths} | SHORT_FORMS


def flatten(node: LocatedValue, section: Section) -> dict[str, LocatedValue]:
    """Return the settings in `node`, the value of `section`, by dotted path; raise ConfigError."""
    if not isinstance(node.value, Mapping):
        return _not_mapping(node, section)
    layer: dict[str, LocatedValue] = {}
    if section.optional:
        layer[section.path] = LocatedValue("true", node.where)
    for key, value in node.value.items():
        child = section.child(key)
        if child is None:
            raise unknown_key(f"{section.path}.{key}".lstrip("."), value.where)
        if isinstance(child, Section):
            layer.update(flatten(value, child))
        else:
            layer[child.path] = value
    return layer


def unknown_key(path: str, where: str) -> ConfigError:
    """Return the error for an unknown key, with the nearest known one."""
    paths = [leaf.path for leaf in root().leaves()] + [section.path for section in root().sections()]
    parent, _, key = path.rpartition(".")
    siblings = {known.rpartition(".")[2]: known for known in paths if known.rpartition(".")[0] == parent}
    near = [siblings[name] for name in _close_matches(key, [name for name in siblings if name], 1)]
    near += [known for known in paths if known.rpartition(".")[2] == key]
    near += _close_matches(path, paths, 1, 0.4)
    known = near[0] if near else ", ".join(key_of(child) for child in root().children)
    hint = f"Did you mean {known}?" if near else f"Known keys: {known}"
    return ConfigError(f"unknown key {path!r}", where=where, hint=hint)


def _not_mapping(node: LocatedValue, section: Section) -> dict[str, LocatedValue]:
    if node.value is None:
        return {section.path: LocatedValue("false", node.where)} if section.optional else {}
    if section.optional and str(node.value).lower() in _SWITCH:
        return {section.path: LocatedValue(str(node.value).lower(), node.where)}
    name = section.path or "the file"
    raise ConfigError(f"{name}: must be a section with keys", where=node.where, got=str(node))


def _plain(value: object) -> object:
    """Return a section's value without None; a dataclass becomes a mapping, also one inside it."""
    if is_dataclass(value) and not isinstance(value, LocatedValue):
        found = {item.name: getattr(value, item.name) for item in fields(value)}
        value = {name: _plain(item) if is_dataclass(item) else item for name, item in found.items()}
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if item is not None}


def _close_matches(word: str, known: list[str], count: int, cutoff: float = 0.6) -> list[str]:
    import difflib  # 0.3 MB, needed only after a typing error

    return difflib.get_close_matches(word, known, count, cutoff)


def _variable(name: str) -> str:
    return f"environment variable {name}"


def _warn_of_unknown(name: str, known: Mapping[str, str]) -> None:
    """Warn about a variable that looks like a setting and is not one, such as MQTTKIT_MQTT_BROKER_PROT or MQTTKIT_USER.

    Other variables may have another use: `${MQTTKIT_SITE}` in the file, or a container engine's MQTTKIT_SERVICE_HOST.
    """
    if name in OTHER_VARIABLES:
        return
    ending = name.removeprefix("MQTTKIT")
    near = [one for one in known if one.endswith(ending)] or _close_matches(name, list(known), 1, 0.85)
    sections = tuple(f"MQTTKIT_{key_of(child).upper()}_" for child in root().children)
    if not near and name.startswith(sections):
        near = _close_matches(name, list(known), 1)
    if near or name.startswith(sections):
        nearest = f"; did you mean {near[0]}?" if near else ""
        _log.warning("environment variable %s is not a setting%s", name, nearest)
