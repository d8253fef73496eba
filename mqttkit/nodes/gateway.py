"""A simulated gateway, as a real client: it receives readings and keeps an aggregate per sensor."""

from __future__ import annotations

import heapq
import json
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from mqttkit.messages import Message, Subscription
from mqttkit.nodes.node import Node
from mqttkit.settings import MqttSettings

KEPT = 100_000
"""Messages kept in `received_messages`; the oldest are dropped."""
MAX_SENSORS = 100_000
MAX_SEQUENCE = 2**53 - 1
"""The largest integer that every JSON reader represents exactly (RFC 8259, 6)."""
_GAPS = 10_000


@dataclass
class Aggregate:
    """The readings of one sensor, summarised."""

    sensor_id: str
    count: int = 0
    """Readings without duplicates."""
    duplicates: int = 0
    missing: int = 0
    """Sequence numbers between the first and the last one that are missing."""
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    last: float = math.nan
    unit: str = ""
    first_sequence: int = 0
    last_sequence: int = 0
    _gaps: set[int] = field(default_factory=set, repr=False)
    """The missing numbers that may still arrive."""

    def add(self, sequence: int, value: float, unit: str) -> bool:
        """Add a reading; return False if it is a duplicate."""
        if not self.count:
            self.first_sequence = self.last_sequence = sequence
        elif sequence > self.last_sequence:
            gap = range(self.last_sequence + 1, sequence)
            self.missing += len(gap)
            self._gaps.update(gap[-_GAPS:])
            if len(self._gaps) > 2 * _GAPS:
                self._gaps = set(heapq.nlargest(_GAPS, self._gaps))
            self.last_sequence = sequence
        elif sequence in self._gaps:
            self._gaps.discard(sequence)
            self.missing -= 1
        else:
            self.duplicates += 1
            return False
        self.count += 1
        self.mean += (value - self.mean) / self.count
        self.minimum, self.maximum = min(self.minimum, value), max(self.maximum, value)
        self.last, self.unit = value, unit
        return True

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


class GatewayNode(Node):
    """Subscribes to `sensor/#` and aggregates. A `with` block connects and disconnects it."""

    def __init__(
        self,
        node_id: str,
        mqtt: MqttSettings,
        *,
        topic_filter: str = "sensor/#",
        on_reading: Callable[[Message], None] | None = None,
    ) -> None:
        super().__init__(node_id, mqtt, on_messages=self._take)
        self.topic_filter = topic_filter
        self.received_messages: deque[Message] = deque(maxlen=KEPT)
        """Received messages, the newest last."""
        self.aggregates: dict[str, Aggregate] = {}
        """By sensor."""
        self.readings = 0
        """Readings received, without duplicates."""
        self.invalid = 0
        """Messages that are not readings, or that exceed the number of sensors."""
        self._on_reading = on_reading
        self._condition = threading.Condition()

    def connect_mqtt(self, timeout: float | None = 10.0) -> None:
        """Connect and subscribe at QoS 1; raise BrokerUnreachable, ConnectionRefused, SubscriptionDenied."""
        super().connect_mqtt(timeout)
        self.client.subscribe(Subscription(self.topic_filter, qos=1))

    def wait_for(self, readings: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds for so many readings; return whether they arrived."""
        with self._condition:
            return self._condition.wait_for(lambda: self.readings >= readings, timeout)

    def rows(self) -> list[dict[str, Any]]:
        """Return one aggregate per sensor, sorted by name."""
        with self._condition:
            return [one.to_json() for _, one in sorted(self.aggregates.items())]

    def _take(self, messages: list[Message]) -> None:
        """Process messages, in the network thread."""
        with self._condition:
            for message in messages:
                self.received_messages.append(message)
                self._count(message)
            self._condition.notify_all()
        if self._on_reading is not None:
            for message in messages:
                self._on_reading(message)

    def _count(self, message: Message) -> None:
        reading = _reading(message.payload)
        if reading is None or (reading[0] not in self.aggregates and len(self.aggregates) >= MAX_SENSORS):
            self.invalid += 1
            return
        name, sequence, value, unit = reading
        self.readings += self.aggregates.setdefault(name, Aggregate(name)).add(sequence, value, unit)


def _reading(payload: bytes) -> tuple[str, int, float, str] | None:
    """Return sensor, sequence number, value and unit; None if the payload is not a reading."""
    try:
        data = json.loads(payload)
        name, sequence, value = data["sensor_id"], data["sequence"], data["value"]
        if not isinstance(name, str) or type(sequence) is not int or type(value) not in (int, float):
            return None
        number, unit = float(value), str(data.get("unit", ""))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    if not math.isfinite(number) or abs(sequence) > MAX_SEQUENCE:
        return None
    return name, sequence, number, unit
