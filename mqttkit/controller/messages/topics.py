"""The topics of controllers, and which messages belong on each topic. Pure."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.errors import UsageError
from mqttkit.topics import check_level, check_topic_name

GLOBAL = "global"
"""Scope and region of messages for all controllers."""
SYSTEM = "system"


class Kind(enum.Enum):
    """The purpose of a topic."""

    DISCOVERY = "discovery"
    """Reports of local controllers; QoS 1."""
    POLICY = "policy"
    """Policies of global and regional controllers; QoS 1, retained."""
    EVENT = "event"
    """Events from any controller; QoS 1."""
    STATUS = "status"
    """Heartbeats at QoS 0, retained; the will reports offline."""
    RECEIPT = "receipt"
    """Receipts of regional controllers for reports; QoS 1."""
    REQUEST = "request"
    """Requests to one controller; QoS 1."""
    ANSWER = "answer"
    """Answers to the requests of one controller; QoS 1."""
    OWN = "own"
    """Messages whose types an application defines; QoS 1."""


TYPES = {
    "discovery.report": Kind.DISCOVERY,
    "policy.update": Kind.POLICY,
    "event": Kind.EVENT,
    "status": Kind.STATUS,
    "receipt": Kind.RECEIPT,
    "request": Kind.REQUEST,
    "answer": Kind.ANSWER,
}
"""The kind of topic on which each message_type belongs. Types of an application are `PREFIX.NAME`."""
RESERVED = frozenset({name.partition(".")[0] for name in TYPES} | {"key", "scan", "mqttkit"})
"""Prefixes that an application cannot register."""
_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Place:
    """A parsed topic."""

    topic: str
    kind: Kind
    region: str
    """Region, `global` or `system`; empty for a status, request or answer topic."""
    controller_id: str = ""
    """The controller that the topic belongs to: the sender of a report or heartbeat, the addressee of the others."""
    prefix: str = ""
    """What the message types of an application begin with."""


@dataclass(frozen=True)
class Topics:
    """All topics under one base."""

    base: str = "pdsno"
    """First level or levels."""

    def __post_init__(self) -> None:
        check_topic_name(self.base)

    def discovery(self, region: str, controller_id: str) -> str:
        """Return the topic of one local controller's reports."""
        return self._join("discovery", check_level(region, "region"), check_level(controller_id, "controller id"))

    def discovery_filter(self, region: str) -> str:
        """Return the filter for all reports of a region."""
        return f"{self.base}/discovery/{check_level(region, 'region')}/+"

    def policy(self, scope: str = GLOBAL) -> str:
        """Return the topic of the global policy, or of one region's policy."""
        return self._join("policy", check_level(scope, "region"))

    def events(self, scope: str = SYSTEM) -> str:
        """Return the topic of the system's events, or of one region's events."""
        return self._join("events", check_level(scope, "region"))

    def status(self, controller_id: str) -> str:
        """Return the topic of a controller's heartbeats."""
        return self._join("status", check_level(controller_id, "controller id"))

    def receipts(self, region: str, controller_id: str) -> str:
        """Return the topic of the receipts for one local controller."""
        return self._join("receipts", check_level(region, "region"), check_level(controller_id, "controller id"))

    def requests(self, controller_id: str) -> str:
        """Return the topic of the requests to one controller."""
        return self._join("requests", check_level(controller_id, "controller id"))

    def answers(self, controller_id: str) -> str:
        """Return the topic of the answers to one controller's requests."""
        return self._join("answers", check_level(controller_id, "controller id"))

    def messages(self, prefix: str, scope: str = SYSTEM) -> str:
        """Return the topic of an application's messages, to all controllers or to one region."""
        return self._join("messages", check_prefix(prefix), check_level(scope, "region"))

    def policy_filter(self) -> str:
        """Return the filter for all policies."""
        return f"{self.base}/policy/+"

    def status_filter(self) -> str:
        """Return the filter for all heartbeats."""
        return f"{self.base}/status/+"

    def place(self, topic: str) -> Place:
        """Return the parsed topic; raise MessageRefused (wrong_topic) if it is not a topic of controllers."""
        levels = topic.removeprefix(f"{self.base}/").split("/") if topic.startswith(f"{self.base}/") else []
        match levels:
            case ["discovery", region, controller_id]:
                return Place(topic, Kind.DISCOVERY, region, controller_id)
            case ["receipts", region, controller_id]:
                return Place(topic, Kind.RECEIPT, region, controller_id)
            case ["policy", scope]:
                return Place(topic, Kind.POLICY, scope)
            case ["events", scope]:
                return Place(topic, Kind.EVENT, scope)
            case ["status", controller_id]:
                return Place(topic, Kind.STATUS, "", controller_id)
            case ["requests", controller_id]:
                return Place(topic, Kind.REQUEST, "", controller_id)
            case ["answers", controller_id]:
                return Place(topic, Kind.ANSWER, "", controller_id)
            case ["messages", prefix, scope]:
                return Place(topic, Kind.OWN, scope, prefix=prefix)
        raise MessageRefused(MessageRefusal.WRONG_TOPIC, f"{topic[:200]!r} is not a topic of controllers")

    def _join(self, *levels: str) -> str:
        return "/".join((self.base, *levels))


def check_prefix(prefix: str) -> str:
    """Return the prefix of an application's message types; raise UsageError if it is malformed or reserved."""
    if not _PREFIX.fullmatch(prefix) or prefix in RESERVED:
        raise UsageError(
            f"message prefix {prefix!r}: use 1 to 32 lower-case letters, digits and '-', after a letter; "
            f"these are reserved: {', '.join(sorted(RESERVED))}"
        )
    return prefix


def check_place(place: Place, envelope: Envelope) -> None:
    """Raise MessageRefused if the envelope does not belong on the topic: type, region, sender."""
    kind = TYPES.get(envelope.message_type)
    if kind is None and place.prefix and envelope.message_type.startswith(f"{place.prefix}."):
        kind = Kind.OWN
    if kind is None:
        raise MessageRefused(MessageRefusal.UNKNOWN_TYPE, f"unknown message_type {envelope.message_type!r}")
    if kind is not place.kind:
        text = f"message_type {envelope.message_type!r} does not belong on a {place.kind.value} topic"
        raise MessageRefused(MessageRefusal.UNKNOWN_TYPE, text)
    if place.region not in ("", SYSTEM, envelope.region):
        text = f"region {envelope.region!r} on the topic of {place.region!r}"
        raise MessageRefused(MessageRefusal.WRONG_REGION, text)
    if place.kind in (Kind.DISCOVERY, Kind.STATUS) and place.controller_id != envelope.sender_id:
        text = f"sender {envelope.sender_id!r} on the topic of {place.controller_id!r}"
        raise MessageRefused(MessageRefusal.WRONG_SENDER, text)
