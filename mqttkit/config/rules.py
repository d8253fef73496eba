"""What a value must be beyond its type: one line a setting. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mqttkit.errors import TopicError
from mqttkit.settings import CLIENT_VERSIONS, TRANSPORTS, parse_address
from mqttkit.topics import check_level, check_scanner_id, check_template, check_topic_name


@dataclass(frozen=True)
class Rule:
    """A test and what it asks for."""

    expected: str
    """Finishes the sentence `must be ...`."""
    holds: Callable[[Any], bool]
    """Tell whether a value passes; a ValueError or TopicError raised says why it does not."""

    def problem(self, value: Any) -> str:
        """Return what is wrong with the value; an empty string where nothing is."""
        try:
            return "" if self.holds(value) else f"must be {self.expected}"
        except (ValueError, TopicError) as error:
            return str(error)


def _company(text: str) -> bool:
    if len(text) != 4 or not _HEX.issuperset(text):
        raise ValueError(f"must be pairs of hex bytes such as 4c00, got {text!r}")
    return True


def between(low: float, high: float) -> Rule:
    """Ask for a number from low to high."""
    return Rule(f"{low} to {high}", lambda value: low <= value <= high)


def at_least(low: float) -> Rule:
    """Ask for a number of low or more."""
    return Rule(f"{low} or more", lambda value: value >= low)


def above(low: float) -> Rule:
    """Ask for a number greater than low."""
    return Rule(f"more than {low}", lambda value: value > low)


def one_of(*choices: str) -> Rule:
    """Ask for one of the words."""
    return Rule(f"{', '.join(choices[:-1])} or {choices[-1]}", lambda value: value in choices)


def template(*placeholders: str) -> Rule:
    """Ask for a topic template with these placeholders."""
    return Rule("a topic template", lambda value: bool(check_template(value, placeholders)))


def _source(value: str) -> bool:
    kind, colon, argument = value.partition(":")
    return bool(argument) if kind == "replay" else not colon and kind in _SOURCES


def _listens(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= 65_535


_SOURCES = ("auto", "bleak", "bluepy", "simulated")
_POSITIVE = at_least(1)
_QOS = between(0, 2)
_HEX = frozenset("0123456789abcdefABCDEF")

RULES: dict[str, Rule] = {
    "mqtt.broker.host": Rule("a host name or an address", lambda value: bool(value.strip())),
    "mqtt.broker.port": between(1, 65_535),
    "mqtt.broker.hosts": Rule("host or host:port", lambda value: all(parse_address(one, 1) for one in value)),
    "mqtt.broker.transport": one_of(*TRANSPORTS),
    "mqtt.broker.websocket_path": Rule("a path that begins with /", lambda value: value.startswith("/")),
    "mqtt.client.client_id": Rule("text without NUL", lambda value: "\0" not in value),
    "mqtt.client.keep_alive": between(0, 65_535),
    "mqtt.client.session_expiry": between(0, 0xFFFF_FFFF),
    "mqtt.client.qos": _QOS,
    "mqtt.client.version": one_of(*CLIENT_VERSIONS),
    "mqtt.client.receive_maximum": between(1, 65_535),
    "mqtt.client.connect_timeout": above(0),
    "mqtt.reconnect.initial_delay": above(0),
    "mqtt.reconnect.max_delay": above(0),
    "mqtt.limits.max_inflight": between(1, 65_535),
    "mqtt.limits.max_queued_messages": _POSITIVE,
    "mqtt.limits.max_queued_bytes": _POSITIVE,
    "scanner.id": Rule("a scanner identifier", lambda value: bool(check_scanner_id(value))),
    "scanner.source": Rule("auto, bleak, bluepy, simulated or replay:FILE", _source),
    "scanner.speed": above(0),
    "scanner.devices": _POSITIVE,
    "scanner.rate": above(0),
    "scanner.min_rssi": between(-127, 20),
    "scanner.company": Rule(
        "pairs of hex bytes such as 4c00",
        lambda value: all(_company(one) for one in value),
    ),
    "scanner.interval": at_least(0),
    "publisher.topic": template("scanner_id", "mac_address"),
    "publisher.qos": _QOS,
    "publisher.stats_interval": above(0),
    "publisher.status_topic": Rule("a topic name", lambda value: bool(check_topic_name(value))),
    "publisher.queue_size": _POSITIVE,
    "controller.id": Rule("a controller identifier", lambda value: bool(check_level(value, "controller id"))),
    "controller.region": Rule("a region", lambda value: bool(check_level(value, "region"))),
    "controller.base": Rule("a topic name", lambda value: bool(check_topic_name(value))),
    "controller.transports": Rule(
        "some of mqtt, http and memory", lambda value: value and {"mqtt", "http", "memory"}.issuperset(value)
    ),
    "controller.http_url": Rule("http://host:port", lambda value: value.startswith(("http://", "https://"))),
    "controller.http_listen": Rule("host:port", _listens),
    "controller.poll_interval": above(0),
    "controller.heartbeat_interval": above(0),
    "controller.clock_skew": at_least(0),
    "controller.max_message_bytes": between(1, 64 * 1024 * 1024),
    "controller.handler_retries": between(0, 100),
    "bridge.topic": template("tenant_id", "agent_id", "metric_name"),
    "bridge.group": Rule("one topic level", lambda value: bool(check_level(value, "group"))),
    "bridge.batch_size": _POSITIVE,
    "bridge.batch_window": at_least(0),
    "bridge.queue_size": _POSITIVE,
    "bridge.payload_limit": _POSITIVE,
    "bridge.dedupe_window": _POSITIVE,
    "bridge.dead_letter_limit": at_least(0),
    "bridge.sink_timeout": above(0),
    "bridge.health_port": between(0, 65_535),
    "bridge.drain_timeout": above(0),
    "bridge.stats_interval": above(0),
    "bridge.check_interval": above(0),
    "bridge.skew_limit": above(0),
    "bridge.memory.warn": _POSITIVE,
    "bridge.memory.max": _POSITIVE,
}
"""By dotted path. A value of None is not tested; a setting that has no line takes all its type takes."""

WORDS: dict[str, dict[str, None]] = {"scanner.speed": {"max": None}}
"""By dotted path: a word that may stand for null."""
