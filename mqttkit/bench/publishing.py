"""The publishing side of a run: numbered messages, on a schedule or as fast as possible."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from mqttkit.bench.histogram import Histogram
from mqttkit.bench.plan import Plan, Sent, padding_for, stamp
from mqttkit.bench.usage import cpu_seconds, peak_memory
from mqttkit.client import MqttClient, Receipt
from mqttkit.messages import Outcome
from mqttkit.stop import Stop

ROOM_SECONDS = 10.0
"""Seconds to wait for room in the client's queue."""
SHORTEST_SLEEP = 0.000_5
"""Seconds. Messages due within this time leave together."""
FLAT_OUT_BLOCK = 64
"""Messages between two readings of the clock."""


def publish_all(
    plan: Plan,
    clients: Sequence[MqttClient],
    *,
    stop: Stop,
    latencies: Histogram | None = None,
    progress: Callable[[int], None] = lambda _sent: None,
) -> Sent:
    """Publish the plan, the clients taking turns; return when every outcome is known or `drain` is over.

    At a fixed rate each message contains its scheduled time, even if it leaves late, so that the latency includes
    the delay (no coordinated omission). At QoS 1 and 2 `latencies` gets the time from there to the acknowledgement.
    """
    before = [Counter(client.stats.published) for client in clients]
    began, cpu = time.monotonic(), cpu_seconds()
    watcher = AcknowledgementWatch(latencies) if latencies is not None and plan.rate and plan.qos else None
    numbers, behind = _send(plan, clients, stop, watcher, progress)
    deadline = time.monotonic() + plan.drain
    for client in clients:
        client.flush(max(0.0, deadline - time.monotonic()))
    if watcher is not None:
        watcher.close()
    failure = next((client.failure for client in clients if client.failure is not None), None)
    outcomes: Counter[Outcome] = Counter()
    for client, start in zip(clients, before, strict=True):
        outcomes.update(Counter(client.stats.published) - start)
    return Sent(
        messages=tuple(numbers),
        seconds=time.monotonic() - began,
        cpu=cpu_seconds() - cpu,
        outcomes={outcome.value: count for outcome, count in outcomes.items()},
        behind=behind,
        error=str(failure or ""),
        exit_code=0 if failure is None else failure.exit_code,
        memory=peak_memory(),
    )


def _send(
    plan: Plan,
    clients: Sequence[MqttClient],
    stop: Stop,
    watcher: AcknowledgementWatch | None,
    progress: Callable[[int], None],
) -> tuple[list[int], float]:
    """Send until the plan is over; return the messages per publisher and the largest delay."""
    numbers, sent, behind = [0] * len(clients), 0, 0.0
    padding = padding_for(plan.size)
    topics = [plan.topic_of(index) for index in range(len(clients))]
    start = time.monotonic_ns()
    while not stop.is_set:
        elapsed = (time.monotonic_ns() - start) / 1e9
        if plan.over(sent, elapsed) or any(client.failure for client in clients):
            break
        due = _due(plan, sent, elapsed)
        if due <= sent:
            time.sleep(max((sent / plan.rate) - elapsed, SHORTEST_SLEEP))
            continue
        for index in range(sent, due):
            turn = index % len(clients)
            when = start + int(index / plan.rate * 1e9) if plan.rate else time.monotonic_ns()
            payload = stamp(turn, numbers[turn], when, padding)
            receipt = clients[turn].publish(topics[turn], payload, qos=plan.qos, wait=ROOM_SECONDS)
            numbers[turn] += receipt.outcome is not Outcome.DROPPED
            if watcher is not None:
                watcher.add(when, receipt)
        if plan.rate:
            behind = max(behind, (time.monotonic_ns() - start) / 1e9 - due / plan.rate)
        sent = due
        progress(sent)
    return numbers, behind


def _due(plan: Plan, sent: int, elapsed: float) -> int:
    """Return how many messages are due."""
    due = int(min(elapsed, plan.duration or elapsed) * plan.rate) + 1 if plan.rate else sent + FLAT_OUT_BLOCK
    return min(due, plan.count) if plan.count else due


class AcknowledgementWatch:
    """Waits for receipts in order in its own thread, and records the time since each message's schedule."""

    def __init__(self, latencies: Histogram) -> None:
        self._latencies = latencies
        self._waiting: deque[tuple[int, Receipt]] = deque()
        self._more = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="acknowledgements", daemon=True)
        self._thread.start()

    def add(self, when: int, receipt: Receipt) -> None:
        """Add the receipt of a message with the scheduled time `when`."""
        self._waiting.append((when, receipt))
        self._more.set()

    def close(self) -> None:
        """Record the receipts that are known, and end the thread."""
        self._closed = True
        self._more.set()
        self._thread.join()

    def _run(self) -> None:
        while not (self._closed and not self._waiting):
            if not self._waiting:
                self._more.wait(0.5)
                self._more.clear()
                continue
            when, receipt = self._waiting.popleft()
            outcome = receipt.wait(0 if self._closed else 10)
            if outcome is Outcome.ACKNOWLEDGED:
                self._latencies.add(time.monotonic_ns() - when)
