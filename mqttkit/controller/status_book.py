"""The status of each controller, from its heartbeats."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.messages.topics import Kind, Topics
from mqttkit.controller.security.gate import SKEW_SECONDS, Codec, open_message

MISSED_BEATS = 3
"""A controller is silent after so many missing heartbeats."""


@dataclass
class ControllerStatus:
    """The last known status of one controller."""

    controller_id: str
    state: str
    """`online` or `offline`, from the controller or from its will."""
    incarnation: str
    connection: int
    """Number of its connection to the broker: a will counts only for its own connection or an earlier one."""
    sequence: int
    timestamp: int
    """Milliseconds since the epoch of its last heartbeat, by its own clock."""
    arrived: float
    """When it arrived, by the clock of this machine."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Payload of its last online heartbeat."""


class StatusBook:
    """The newest heartbeat of each controller. Any thread may call the methods."""

    def __init__(
        self, topics: Topics, codec: Codec, *, skew: float = SKEW_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        self.refused: Counter[str] = Counter()
        """Refused messages, by reason."""
        self.controllers: dict[str, ControllerStatus] = {}
        self._topics, self._codec, self._skew, self._now = topics, codec, skew, now
        self._lock = threading.Lock()

    def note(self, topic: str, data: bytes) -> ControllerStatus | None:
        """Record a message from a status topic; return None if it changes nothing.

        An old heartbeat never replaces a newer one. A will counts only for the run and the connection that set it.
        An empty message, which anyone may publish without a key, removes nothing. An online heartbeat that is too old
        to be fresh proves nothing about the present: its controller is silent.
        """
        with self._lock:
            return self._note(topic, data)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per controller, sorted by name, as `watch` shows them."""
        with self._lock:
            return [self._row(seen) for _, seen in sorted(self.controllers.items())]

    def _note(self, topic: str, data: bytes) -> ControllerStatus | None:
        if not data:
            self.refused["empty"] += 1
            return None
        try:
            place = self._topics.place(topic)
            envelope = open_message(self._codec, place, data).envelope
        except MessageRefused as error:
            self.refused[error.reason.value] += 1
            return None
        state, incarnation = envelope.payload.get("state"), envelope.payload.get("incarnation")
        if place.kind is not Kind.STATUS or state not in ("online", "offline") or not isinstance(incarnation, str):
            self.refused["malformed"] += 1
            return None
        known = self.controllers.get(envelope.sender_id)
        seen = self._status(envelope, known)
        if known is not None and not _is_newer(known, seen):
            self.refused["stale"] += 1
            return None
        self.controllers[envelope.sender_id] = seen
        return seen

    def _status(self, envelope: Envelope, known: ControllerStatus | None) -> ControllerStatus:
        payload = envelope.payload
        interval = _number(payload, "heartbeat_interval", 10.0)
        too_old = self._now() - envelope.timestamp / 1000 > self._skew + MISSED_BEATS * interval
        online = payload["state"] == "online"
        same_run = known is not None and known.incarnation == payload["incarnation"]
        return ControllerStatus(
            envelope.sender_id,
            payload["state"],
            payload["incarnation"],
            int(_number(payload, "connection", 0)),
            max(envelope.sequence, known.sequence if known and same_run and not online else 0),
            envelope.timestamp,
            float("-inf") if online and too_old else self._now(),
            payload if online or known is None else known.detail,
        )

    def _row(self, seen: ControllerStatus) -> dict[str, Any]:
        age = max(0.0, self._now() - seen.timestamp / 1000)
        detail = seen.detail
        silent = seen.state == "online" and self._now() - seen.arrived > MISSED_BEATS * _number(
            detail, "heartbeat_interval", 10.0
        )
        sent = _object(detail, "sent")
        return {
            "controller": seen.controller_id,
            "role": str(detail.get("role", "?")),
            "region": str(detail.get("region", "?")),
            "status": "silent" if silent else seen.state,
            "last_heartbeat": round(age, 1),
            "transport": str(detail.get("transport", "")),
            "hops": _number(detail, "hops", 0),
            "reports": _number(detail, "reports", sum(_number(sent, name, 0) for name in sent)),
            "refused": _number(_object(detail, "counters"), "refused", 0),
            "policies": _object(detail, "policies"),
        }


def _number(fields: Mapping[str, Any], name: str, otherwise: float) -> Any:
    """Return a number from a heartbeat; the sender may have put anything there."""
    value = fields.get(name, otherwise)
    return value if type(value) in (int, float) else otherwise


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _is_newer(known: ControllerStatus, new: ControllerStatus) -> bool:
    if new.state == "offline":
        same_run = new.incarnation == known.incarnation
        return same_run and known.state == "online" and new.connection >= known.connection
    return (new.incarnation, new.sequence) > (known.incarnation, known.sequence)
