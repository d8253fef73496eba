"""Merge the profile of a local broker with the stronger sources. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqttkit.config.convert import convert
from mqttkit.config.located_values import LocatedValue
from mqttkit.config.sources import Layer

HOST, PORT = "mqtt.broker.host", "mqtt.broker.port"
_UNIX_SOCKET = "mqtt.broker.unix_socket"
_HOSTS, _USERNAME, _PASSWORD = "mqtt.broker.hosts", "mqtt.broker.username", "mqtt.broker.password"
_TLS, _TRANSPORT, _VERSION = "mqtt.broker.tls", "mqtt.broker.transport", "mqtt.client.version"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_USUAL_PORTS = {("tcp", False): 1883, ("tcp", True): 8883, ("websockets", False): 80, ("websockets", True): 443}
"""The ports of mqtt, mqtts, ws and wss, by transport and whether it uses TLS."""


def fitting(listeners: Sequence[Layer], wanted: Mapping[str, LocatedValue]) -> Layer:
    """Return the settings to use from a profile with these listeners; the first is the plain one.

    `fitting` picks the listener on the port in `wanted`, or without a port the first with the wanted transport, TLS and
    version. It returns nothing if `wanted` names another broker, and no user and password if it names another user.
    """
    tests = (_is_at,) if PORT in wanted else (_matches, _matches_with_tls)
    profile = next((listener for fits in tests for listener in listeners if fits(listener, wanted)), {})
    if _HOSTS in wanted or _UNIX_SOCKET in wanted or _differs(HOST, wanted, profile):
        return {}
    if _differs(_USERNAME, wanted, profile):
        return {path: node for path, node in profile.items() if path not in (_USERNAME, _PASSWORD)}
    return profile


def usual_port(values: Mapping[str, LocatedValue]) -> int:
    """Return the port of the URL scheme, for settings without a port."""
    return _USUAL_PORTS.get(_way(values), 1883)


def _is_at(listener: Layer, wanted: Mapping[str, LocatedValue]) -> bool:
    return not _differs(PORT, wanted, listener)


def _matches(listener: Layer, wanted: Mapping[str, LocatedValue]) -> bool:
    version, spoken = _text(_VERSION, wanted, "auto"), _text(_VERSION, listener, "auto")
    return _way(listener) == _way(wanted) and (spoken == version or "auto" in (spoken, version))


def _matches_with_tls(listener: Layer, wanted: Mapping[str, LocatedValue]) -> bool:
    return _TLS not in wanted and _way(listener) == (_way(wanted)[0], True)


def _way(values: Mapping[str, LocatedValue]) -> tuple[str, bool]:
    tls = values.get(_TLS)
    return _text(_TRANSPORT, values, "tcp"), tls is not None and bool(convert(bool, tls))


def _text(path: str, values: Mapping[str, LocatedValue], default: str) -> str:
    return str(values[path].value) if path in values else default


def _differs(path: str, wanted: Mapping[str, LocatedValue], profile: Layer) -> bool:
    return path in wanted and path in profile and _place(wanted[path]) != _place(profile[path])


def _place(node: LocatedValue) -> str:
    text = str(node.value)
    return "localhost" if text in _LOOPBACK else text
