"""The publishing side of a run: numbered messages, on a schedule or as fast as possible."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from mqttkit.bench.fleet import TURN_SECONDS, Fleet, FleetMember
from mqttkit.bench.histogram import LatencyHistogram
from mqttkit.bench.plan import HEADER, Plan, Sent, padding_for, stamp
from mqttkit.bench.usage import cpu_seconds, peak_memory
from mqttkit.client.sending.receipt import Receipt
from mqttkit.messages import Outcome
from mqttkit.stop import Stop

FLAT_OUT_BLOCK = 256
"""Messages between two turns of the loop, without a rate."""
FLAT_OUT_QUEUED = 4_000
"""Messages that wait in all connections together, without a rate."""


class LoadPublisher:
    """Publishes a plan over the connections of a fleet, which take turns.

    At a fixed rate each message contains its scheduled time, even if it leaves late, so that the latency includes the
    delay (no coordinated omission).
    """

    def __init__(self, plan: Plan, fleet: Fleet, latencies: LatencyHistogram | None = None) -> None:
        """At QoS 1 and 2 and a fixed rate `latencies` gets the time from the schedule to the acknowledgement."""
        self.numbers = [0] * plan.publishers
        """Messages per publisher, without those dropped."""
        self.behind = 0.0
        """Largest delay behind the schedule, seconds."""
        self.sent = 0
        self._plan, self._fleet = plan, fleet
        self._padding = padding_for(plan.size)
        self._topics = [plan.topic_of(index) for index in range(plan.publishers)]
        self._watch = (
            AcknowledgementWatch(fleet, latencies) if latencies is not None and plan.rate and plan.qos else None
        )
        self._room = max(FLAT_OUT_QUEUED // plan.publishers, 1)

    def run(self, stop: Stop, progress: Callable[[int], None] = lambda _sent: None) -> Sent:
        """Publish; return when every outcome is known or `drain` is over."""
        members = self._fleet.members[: self._plan.publishers]
        before = Counter[Outcome]()
        for member in members:
            before.update(member.outbox.counts)
        began, cpu = time.monotonic(), cpu_seconds()
        self._send(stop, progress)
        deadline = time.monotonic() + self._plan.drain
        while self._fleet.unresolved and time.monotonic() < deadline and not self._fleet.failure:
            self._fleet.turn(TURN_SECONDS)
        outcomes = Counter[Outcome]()
        for member in members:
            outcomes.update(member.outbox.counts)
        outcomes.subtract(before)
        outcomes[Outcome.LOST] += self._fleet.unresolved
        failure = self._fleet.failure
        return Sent(
            messages=tuple(self.numbers),
            seconds=time.monotonic() - began,
            cpu=cpu_seconds() - cpu,
            outcomes={outcome.value: count for outcome, count in outcomes.items()},
            behind=self.behind,
            error=str(failure or ""),
            exit_code=0 if failure is None else failure.exit_code,
            memory=peak_memory(),
        )

    def _send(self, stop: Stop, progress: Callable[[int], None]) -> None:
        plan, fleet = self._plan, self._fleet
        start = time.monotonic_ns()
        while not stop.is_set and fleet.failure is None:
            elapsed = (time.monotonic_ns() - start) / 1e9
            if plan.over(self.sent, elapsed):
                return
            due = due_messages(plan, self.sent, elapsed)
            for index in range(self.sent, due):
                turn = index % plan.publishers
                when = start + int(index / plan.rate * 1e9) if plan.rate else time.monotonic_ns()
                if not plan.rate and not self._has_room(turn):
                    due = index
                    break
                self._publish(turn, when)
            if plan.rate and due > self.sent:
                self.behind = max(self.behind, (time.monotonic_ns() - start) / 1e9 - (due - 1) / plan.rate)
            moved, self.sent = due > self.sent, due
            progress(self.sent)
            if plan.rate:
                fleet.turn(min(max(self.sent / plan.rate - (time.monotonic_ns() - start) / 1e9, 0.0), TURN_SECONDS))
            else:
                fleet.turn(0.0 if moved else TURN_SECONDS)

    def _has_room(self, turn: int) -> bool:
        return self._fleet.members[turn].outbox.unresolved < self._room

    def _publish(self, turn: int, when: int) -> None:
        numbered = self._plan.size >= HEADER.size
        payload = stamp(self.numbers[turn], when, self._padding) if numbered else self._padding
        receipt = self._fleet.publish(turn, self._topics[turn], payload, self._plan.qos)
        if receipt.outcome is not Outcome.DROPPED:
            self.numbers[turn] += 1
            if self._watch is not None:
                self._watch.add(turn, when, receipt)


class AcknowledgementWatch:
    """Records the time from each message's schedule to its acknowledgement."""

    def __init__(self, fleet: Fleet, latencies: LatencyHistogram) -> None:
        self._latencies = latencies
        self._waiting: list[deque[tuple[int, Receipt]]] = [deque() for _ in fleet.members]
        for member in fleet.members:
            member.outbox.on_resolved = self._handler(member)

    def add(self, number: int, when: int, receipt: Receipt) -> None:
        """Add the receipt of a message of connection `number` with the scheduled time `when`."""
        self._waiting[number].append((when, receipt))

    def _handler(self, member: FleetMember) -> Callable[[], None]:
        waiting, add = self._waiting[member.number], self._latencies.add

        def resolved() -> None:
            now = time.monotonic_ns()
            while waiting and waiting[0][1].outcome is not None:
                when, receipt = waiting.popleft()
                if receipt.outcome is Outcome.ACKNOWLEDGED:
                    add(now - when)

        return resolved


def due_messages(plan: Plan, sent: int, elapsed: float) -> int:
    """Return how many messages are due."""
    due = int(min(elapsed, plan.duration or elapsed) * plan.rate) + 1 if plan.rate else sent + FLAT_OUT_BLOCK
    return min(due, plan.count) if plan.count else due
