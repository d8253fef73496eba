"""The status of each controller, from its heartbeats."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.messages.topics import Kind, Topics
from mqttkit.controller.security.gate import SKEW_SECONDS, Codec, OpenedMessage, open_message

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
    kid: str = ""
    """The key that signed its last heartbeat."""


class StatusBook:
    """The newest heartbeat of each controller. Any thread may call the methods."""

    def __init__(
        self, topics: Topics, codec: Codec, *, skew: float = SKEW_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        self.refused: Counter[str] = Counter()
        """Refused messages, by reason."""
        self.refused_on: Counter[str] = Counter()
        """Refused messages, by the controller that their topic belongs to."""
        self.controllers: dict[str, ControllerStatus] = {}
        self._topics, self._codec, self._skew, self._now = topics, codec, skew, now
        self._lock = threading.Lock()

    def note(self, topic: str, data: bytes, *, retained: bool = False) -> ControllerStatus | None:
        """Record a message from a status topic; return None if it changes nothing.

        A `retained` one counts from when it was written, by its sender's clock, because its arrival proves nothing.

        An old heartbeat never replaces a newer one. A will counts only for the run and the connection that set it.
        An empty message, which anyone may publish without a key, removes nothing. An online heartbeat that is too old
        to be fresh proves nothing about the present: its controller is silent.
        """
        with self._lock:
            return self._note(topic, data, retained=retained)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per controller, sorted by name, as `watch` shows them."""
        with self._lock:
            return [self._row(seen) for _, seen in sorted(self.controllers.items())]

    def silent_since(self, shown: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the rows whose status differs from the one that `shown` has for the controller."""
        return [row for row in self.rows() if shown.get(row["controller"], row["status"]) != row["status"]]

    def _note(self, topic: str, data: bytes, *, retained: bool) -> ControllerStatus | None:
        if not data:
            self._refuse(topic, "empty")
            return None
        try:
            place = self._topics.place(topic)
            opened = open_message(self._codec, place, data)
        except MessageRefused as error:
            self._refuse(topic, error.reason.value)
            return None
        envelope = opened.envelope
        state, incarnation = envelope.payload.get("state"), envelope.payload.get("incarnation")
        if place.kind is not Kind.STATUS or state not in ("online", "offline") or not isinstance(incarnation, str):
            self._refuse(topic, "malformed")
            return None
        known = self.controllers.get(envelope.sender_id)
        seen = self._status(opened, known, retained=retained)
        if known is not None and not _is_newer(known, seen):
            self._refuse(topic, "stale")
            return None
        self.controllers[envelope.sender_id] = seen
        return seen

    def _refuse(self, topic: str, reason: str) -> None:
        self.refused[reason] += 1
        self.refused_on[topic.rpartition("/")[2]] += 1

    def _status(self, opened: OpenedMessage, known: ControllerStatus | None, *, retained: bool) -> ControllerStatus:
        envelope = opened.envelope
        payload = envelope.payload
        interval = _number(payload, "heartbeat_interval", 10.0)
        too_old = self._now() - envelope.timestamp / 1000 > self._skew + MISSED_BEATS * interval
        online = payload["state"] == "online"
        arrived = min(self._now(), envelope.timestamp / 1000) if retained else self._now()
        same_run = known is not None and known.incarnation == payload["incarnation"]
        return ControllerStatus(
            envelope.sender_id,
            payload["state"],
            payload["incarnation"],
            int(_number(payload, "connection", 0)),
            max(envelope.sequence, known.sequence if known and same_run and not online else 0),
            envelope.timestamp,
            float("-inf") if online and too_old else arrived,
            payload if online or known is None else known.detail,
            opened.key.kid if opened.key is not None else "",
        )

    def _row(self, seen: ControllerStatus) -> dict[str, Any]:
        age = max(0.0, self._now() - seen.timestamp / 1000)
        detail = seen.detail
        silent = seen.state == "online" and self._now() - seen.arrived > MISSED_BEATS * _number(
            detail, "heartbeat_interval", 10.0
        )
        counters = _object(detail, "counters")
        sent = _object(detail, "sent")
        reasons = {name.removeprefix("refused_"): counters[name] for name in counters if name.startswith("refused_")}
        return {
            "controller": seen.controller_id,
            "role": str(detail.get("role", "?")),
            "region": str(detail.get("region", "?")),
            "status": "silent" if silent else seen.state,
            "last_heartbeat": round(age, 1),
            "transport": str(detail.get("transport", "")),
            "hops": _number(detail, "hops", 0),
            "reports": _number(detail, "reports", sum(_number(sent, name, 0) for name in sent)),
            "unsent": _number(detail, "unsent", 0),
            "refused": _number(counters, "refused", 0),
            "refusals": reasons,
            "store_errors": _number(counters, "store_errors", 0),
            "refused_here": self.refused_on[seen.controller_id],
            "policies": _object(detail, "policies"),
            "applied": _object(detail, "applied" if "applied" in detail else "policies"),
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
