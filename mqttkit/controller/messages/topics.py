"""Where controllers' messages go, and what may stand where. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefused, Reason
from mqttkit.topics import check_level, check_topic_name

GLOBAL = "global"
"""Scope and region of what is for everybody."""
SYSTEM = "system"


class Kind(enum.Enum):
    """What a topic is for."""

    DISCOVERY = "discovery"
    """Reports of local controllers; QoS 1."""
    POLICY = "policy"
    """Policies of global and regional controllers; QoS 1, retained."""
    EVENT = "event"
    """What anybody tells everybody; QoS 1."""
    STATUS = "status"
    """Heartbeats at QoS 0, retained; offline by will."""


TYPES = {
    "discovery.report": Kind.DISCOVERY,
    "policy.update": Kind.POLICY,
    "event": Kind.EVENT,
    "status": Kind.STATUS,
}
"""message_type to the kind of topic that it belongs on."""


@dataclass(frozen=True)
class Place:
    """A topic, understood."""

    topic: str
    kind: Kind
    region: str
    """Region, `global` or `system`; empty for a status topic."""
    controller_id: str = ""
    """The controller that the topic belongs to; discovery and status only."""


@dataclass(frozen=True)
class Topics:
    """All topics beneath one base."""

    base: str = "pdsno"
    """First level or levels."""

    def __post_init__(self) -> None:
        check_topic_name(self.base)

    def discovery(self, region: str, controller_id: str) -> str:
        """Return where one local controller reports."""
        return self._join("discovery", check_level(region, "region"), check_level(controller_id, "controller id"))

    def discovery_filter(self, region: str) -> str:
        """Return the filter for all reports of a region."""
        return f"{self.base}/discovery/{check_level(region, 'region')}/+"

    def policy(self, scope: str = GLOBAL) -> str:
        """Return where policies for everybody or for one region are."""
        return self._join("policy", check_level(scope, "region"))

    def events(self, scope: str = SYSTEM) -> str:
        """Return where events of the system or of one region go."""
        return self._join("events", check_level(scope, "region"))

    def status(self, controller_id: str) -> str:
        """Return where a controller's heartbeats go."""
        return self._join("status", check_level(controller_id, "controller id"))

    def status_filter(self) -> str:
        """Return the filter for all heartbeats."""
        return f"{self.base}/status/+"

    def place(self, topic: str) -> Place:
        """Return what a topic is for; raise MessageRefused (wrong_topic) where it is none of these."""
        levels = topic.removeprefix(f"{self.base}/").split("/") if topic.startswith(f"{self.base}/") else []
        match levels:
            case ["discovery", region, controller_id]:
                return Place(topic, Kind.DISCOVERY, region, controller_id)
            case ["policy", scope]:
                return Place(topic, Kind.POLICY, scope)
            case ["events", scope]:
                return Place(topic, Kind.EVENT, scope)
            case ["status", controller_id]:
                return Place(topic, Kind.STATUS, "", controller_id)
        raise MessageRefused(Reason.WRONG_TOPIC, f"{topic[:200]!r} is no topic of controllers")

    def _join(self, *levels: str) -> str:
        return "/".join((self.base, *levels))


def check_place(place: Place, envelope: Envelope) -> None:
    """Raise MessageRefused where the envelope does not belong on the topic: type, region, sender."""
    kind = TYPES.get(envelope.message_type)
    if kind is None:
        raise MessageRefused(Reason.UNKNOWN_TYPE, f"message_type {envelope.message_type!r} is not known here")
    if kind is not place.kind:
        text = f"message_type {envelope.message_type!r} does not belong on a {place.kind.value} topic"
        raise MessageRefused(Reason.UNKNOWN_TYPE, text)
    if place.region not in ("", SYSTEM, envelope.region):
        text = f"region {envelope.region!r} on the topic of {place.region!r}"
        raise MessageRefused(Reason.WRONG_REGION, text)
    if place.controller_id and place.controller_id != envelope.sender_id:
        text = f"sender {envelope.sender_id!r} on the topic of {place.controller_id!r}"
        raise MessageRefused(Reason.WRONG_SENDER, text)
