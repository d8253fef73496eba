"""Who is there: heartbeats to one line a controller."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.messages.topics import Kind, Topics, check_place
from mqttkit.controller.security.gate import Codec

MISSED_BEATS = 3
"""A controller is silent once so many heartbeats are missing."""


@dataclass
class Seen:
    """What is known of one controller."""

    controller_id: str
    state: str
    """`online` or `offline`, as it or its will said."""
    incarnation: str
    sequence: int
    timestamp: int
    """Milliseconds since the epoch of its last heartbeat, by its own clock."""
    arrived: float
    """When that came, by the clock of this machine."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Payload of its last online heartbeat."""


class StatusBook:
    """The newest heartbeat of each controller. Any thread may call its methods: a live table is drawn in another."""

    def __init__(self, topics: Topics, codec: Codec, *, now: Callable[[], float] = time.time) -> None:
        self.refused: Counter[str] = Counter()
        """Messages not believed, by reason."""
        self.controllers: dict[str, Seen] = {}
        self._topics, self._codec, self._now = topics, codec, now
        self._lock = threading.Lock()

    def note(self, topic: str, data: bytes) -> Seen | None:
        """Take in a message of a status topic; None where it changes nothing.

        An old heartbeat does not replace a newer one, and a will counts only for the life that left it.
        """
        with self._lock:
            return self._note(topic, data)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a controller, by name: what `watch` shows."""
        with self._lock:
            return [self._row(seen) for _, seen in sorted(self.controllers.items())]

    def _note(self, topic: str, data: bytes) -> Seen | None:
        if not data:
            self.controllers.pop(topic.rpartition("/")[2], None)
            return None
        try:
            place = self._topics.place(topic)
            envelope = self._codec.unwrap(data, topic).envelope
            check_place(place, envelope)
        except MessageRefused as error:
            self.refused[error.reason.value] += 1
            return None
        state, incarnation = envelope.payload.get("state"), envelope.payload.get("incarnation")
        if place.kind is not Kind.STATUS or state not in ("online", "offline") or not isinstance(incarnation, str):
            self.refused["malformed"] += 1
            return None
        known = self.controllers.get(envelope.sender_id)
        if known is not None and not _is_news(known, str(state), incarnation, envelope.sequence):
            self.refused["stale"] += 1
            return None
        sequence = max(envelope.sequence, known.sequence if known and known.incarnation == incarnation else 0)
        detail = envelope.payload if state == "online" or known is None else known.detail
        seen = Seen(
            envelope.sender_id, str(state), incarnation, sequence, envelope.timestamp, self._now(), detail
        )  # fmt: skip
        self.controllers[envelope.sender_id] = seen
        return seen

    def _row(self, seen: Seen) -> dict[str, Any]:
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
    """Return a number of a heartbeat; another controller may have written anything there."""
    value = fields.get(name, otherwise)
    return value if type(value) in (int, float) else otherwise


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _is_news(known: Seen, state: str, incarnation: str, sequence: int) -> bool:
    if state == "offline":
        return incarnation == known.incarnation and known.state == "online"
    return incarnation > known.incarnation or (incarnation == known.incarnation and sequence > known.sequence)
