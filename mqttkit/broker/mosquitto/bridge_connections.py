"""mosquitto's own bridges: a broker's connections to other brokers, as settings and as lines of mosquitto.conf.

They are stored beside the profile, mode 0600, because they contain passwords.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mqttkit.addresses import show_address
from mqttkit.broker.json_file import read_object
from mqttkit.broker.profile import BrokerPaths
from mqttkit.errors import LifecycleError, UsageError
from mqttkit.files import write_secret
from mqttkit.topics import check_topic_filter

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
DIRECTIONS = ("out", "in", "both")
TOPIC_FORM = "'FILTER [out|in|both [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]'"


@dataclass(frozen=True, kw_only=True)
class BridgeTopic:
    """Messages that a bridge forwards."""

    pattern: str
    """Topic filter, without the prefixes."""
    direction: str = "out"
    """`out` to the other broker, `in` from it, or `both`."""
    qos: int = 1
    """Quality of service of the subscription."""
    local_prefix: str = ""
    """Put before the pattern on this broker."""
    remote_prefix: str = ""
    """Put before the pattern on the other broker."""

    @classmethod
    def parse(cls, text: str) -> BridgeTopic:
        """Read `FILTER DIRECTION QOS LOCAL-PREFIX REMOTE-PREFIX`; raise UsageError. All but the filter are optional."""
        try:
            fields = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"the topic {text!r} is not valid: {error}", hint=f"Use {TOPIC_FORM}") from error
        if not 1 <= len(fields) <= 5 or (len(fields) > 1 and fields[1] not in DIRECTIONS):
            raise UsageError(f"the topic {text!r} is not valid", hint=f"Use {TOPIC_FORM}")
        if len(fields) > 2 and fields[2] not in ("0", "1", "2"):
            raise UsageError(f"the QoS of the topic {text!r} is not 0, 1 or 2", hint=f"Use {TOPIC_FORM}")
        pattern, direction, qos, local, remote = [*fields, *("", "out", "1", "", "")[len(fields) :]]
        for prefix in (local, remote):
            check_topic_filter(prefix + pattern)
            if set(prefix) & set("+#"):
                raise UsageError(f"the prefix {prefix!r} of the topic {text!r} contains a wildcard")
        if any(character.isspace() for character in pattern + local + remote):
            raise UsageError(f"the topic {text!r} contains white space, which mosquitto.conf cannot express")
        return cls(pattern=pattern, direction=direction, qos=int(qos), local_prefix=local, remote_prefix=remote)

    @property
    def line(self) -> str:
        """The line of mosquitto.conf."""
        pattern, *prefixes = (part or '""' for part in (self.pattern, self.local_prefix, self.remote_prefix))
        return f"topic {pattern} {self.direction} {self.qos} {' '.join(prefixes)}"

    @property
    def ends_with_wildcard(self) -> bool:
        """Whether it matches topics that no client reads individually, so that a canary disturbs no one."""
        return self.pattern.endswith(("+", "#"))


@dataclass(frozen=True, kw_only=True)
class BridgeConnection:
    """A connection to another broker."""

    name: str
    """Name of the bridge."""
    host: str
    """Address of the other broker."""
    port: int
    """Its TCP port."""
    client_id: str
    """Client identifier on the other broker; it keeps the session while this broker is away."""
    topics: tuple[BridgeTopic, ...]
    """What it forwards."""
    username: str | None = None
    """User on the other broker."""
    password: str | None = field(default=None, repr=False)
    """Password of that user."""
    trusted: str | None = field(default=None, repr=False)
    """PEM certificates of the authorities that it trusts; None connects without TLS."""
    certificate: str | None = field(default=None, repr=False)
    """PEM certificate chain that it shows to the other broker."""
    key: str | None = field(default=None, repr=False)
    """PEM private key of that certificate."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(f"a bridge cannot have the name {self.name!r}", hint="Use letters, digits, '-' and '_'")
        if not self.host.isprintable() or " " in self.host:
            raise UsageError(f"{self.host!r} is not the address of a broker", hint="Use a name or an IP address")
        for text in (self.username or "", self.password or ""):
            if text != text.strip() or not text.isprintable():
                raise UsageError("mosquitto.conf cannot express white space around, or control characters in, a secret")

    @property
    def url(self) -> str:
        """Where it connects to."""
        return f"{'mqtts' if self.trusted else 'mqtt'}://{show_address(self.host, self.port)}"

    @property
    def files(self) -> dict[str, tuple[str, str]]:
        """By option of mosquitto.conf: name relative to the broker's root, and content, of each certificate file."""
        stem = f"config/certs/bridge-{self.name}"
        found = {
            "bridge_cafile": (f"{stem}.crt", self.trusted),
            "bridge_certfile": (f"{stem}.client.crt", self.certificate),
            "bridge_keyfile": (f"{stem}.client.key", self.key),
        }
        return {option: (name, content) for option, (name, content) in found.items() if content is not None}

    def lines(self, root: str) -> Iterator[str]:
        """Yield the lines of mosquitto.conf; `root` is the prefix of each path."""
        yield f"connection {self.name}"
        yield f"address {self.host}:{self.port}"
        yield from (topic.line for topic in self.topics)
        yield f"remote_clientid {self.client_id}"
        if self.username is not None:
            yield f"remote_username {self.username}"
        if self.password is not None:
            yield f"remote_password {self.password}"
        yield from ("cleansession false", "restart_timeout 1 60", "keepalive_interval 30", "notifications true")
        for option, (name, _) in self.files.items():
            yield f"{option} {root}{name}"


def bridge_section(bridges: Iterable[BridgeConnection], root: str = "") -> str:
    """Return the part of mosquitto.conf that describes the bridges."""
    return "".join("\n" + "\n".join(bridge.lines(root)) + "\n" for bridge in bridges)


def load_bridges(paths: BrokerPaths) -> list[BridgeConnection]:
    """Return the bridges of a broker; raise LifecycleError if their file is damaged."""
    return parse_bridges(read_object(paths.bridges) or {}, where=str(paths.bridges))


def parse_bridges(values: dict[str, Any], *, where: str) -> list[BridgeConnection]:
    """Return the bridges from their JSON object."""
    entries = values.get("bridges", [])
    try:
        return [
            BridgeConnection(**{**entry, "topics": tuple(BridgeTopic(**topic) for topic in entry["topics"])})
            for entry in entries
        ]
    except (TypeError, KeyError) as error:
        raise LifecycleError(f"{where} is not valid: {error}", hint="Remove it, and add the bridges again") from error


def save_bridges(paths: BrokerPaths, bridges: Iterable[BridgeConnection]) -> None:
    """Store the bridges of a broker, mode 0600."""
    entries = [dataclasses.asdict(bridge) for bridge in bridges]
    write_secret(paths.bridges, (json.dumps({"bridges": entries}, indent=2) + "\n").encode())


def bridge_files(paths: BrokerPaths) -> dict[str, bytes]:
    """Return name and content of the files that the bridges need besides mosquitto.conf."""
    return {name: content.encode() for bridge in load_bridges(paths) for name, content in bridge.files.values()}
