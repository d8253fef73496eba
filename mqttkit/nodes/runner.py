"""Runs a scenario against a real broker, one client per sensor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mqttkit.client import Receipt
from mqttkit.nodes.plan import Scenario, SensorReading, plan
from mqttkit.nodes.sensor import SensorNode
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

WAIT_SECONDS = 30.0
"""Seconds that a reading may wait for a connection or for room."""
_WINDOW = 10_000


@dataclass
class ScenarioTotals:
    """The outcome of a scenario. taken = sent + dropouts; sent includes the duplicates."""

    sensors: int = 0
    taken: int = 0
    sent: int = 0
    duplicates: int = 0
    """Readings sent a second time on purpose."""
    dropouts: int = 0
    """Readings not sent on purpose."""
    late: float = 0.0
    """Greatest delay of a reading, seconds."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Receipts by outcome."""

    @property
    def good(self) -> bool:
        """True if every reading was acknowledged, or was sent at QoS 0."""
        return sum(self.outcomes[name] for name in ("acknowledged", "sent")) == self.sent

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        names = ("sensors", "taken", "sent", "duplicates", "dropouts")
        fields = {name: getattr(self, name) for name in names}
        return {**fields, "late_seconds": round(self.late, 3), "outcomes": dict(self.outcomes)}


class Runner:
    """Runs one scenario. Any thread and a signal handler may call `stop`."""

    def __init__(
        self,
        scenario: Scenario,
        mqtt: MqttSettings,
        *,
        paced: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.scenario = scenario
        self.totals = ScenarioTotals()
        self._mqtt = mqtt
        self._paced = paced
        self._now = now
        self._stop = Stop()
        self._under_way: list[Receipt] = []

    def stop(self) -> None:
        """Stop after the current reading."""
        self._stop.set()

    def run(self, *, limit: int | None = None) -> ScenarioTotals:
        """Connect every sensor, send the readings, wait for the outcomes; raise BrokerUnreachable, ConnectionRefused.

        `limit` ends the scenario after so many readings.
        """
        with ExitStack() as stack:
            nodes: dict[str, SensorNode] = {}
            for name in self.scenario.sensors():
                if self._stop.is_set:
                    return self.totals
                nodes[name] = stack.enter_context(SensorNode(name, self._mqtt))
            self.totals.sensors = len(nodes)
            self._play(nodes, plan(self.scenario), limit)
            for node in nodes.values():
                node.client.flush(WAIT_SECONDS)
        self._settle(0)
        return self.totals

    def _play(self, nodes: dict[str, SensorNode], readings: Iterable[SensorReading], limit: int | None) -> None:
        start, clock = self._now(), time.monotonic()
        for reading in readings:
            if self._stop.is_set or (limit is not None and not reading.copy and self.totals.taken >= limit):
                return
            if self._paced and self._rest(clock + reading.moment):
                return
            self.totals.taken += not reading.copy
            if not reading.sent:
                self.totals.dropouts += 1
                continue
            self._send(nodes[reading.sensor_id], reading, start)

    def _rest(self, moment: float) -> bool:
        """Wait until a time of the monotonic clock; return True if the run must stop."""
        wait = moment - time.monotonic()
        self.totals.late = max(self.totals.late, -wait)
        return wait > 0 and self._stop.wait(wait)

    def _send(self, node: SensorNode, reading: SensorReading, start: float) -> None:
        receipt = node.publish_reading(reading.topic, reading.payload(start), qos=reading.qos, wait=WAIT_SECONDS)
        self.totals.sent += 1
        self.totals.duplicates += reading.copy
        self._under_way.append(receipt)
        if len(self._under_way) >= _WINDOW:
            self._settle(_WINDOW // 2)

    def _settle(self, keep: int) -> None:
        """Count the outcomes of all receipts but the newest `keep`."""
        cut = len(self._under_way) - keep
        done, self._under_way = self._under_way[:cut], self._under_way[cut:]
        for receipt in done:
            outcome = receipt.wait(WAIT_SECONDS)
            self.totals.outcomes["unknown" if outcome is None else outcome.value] += 1
