"""The result of a run as numbers, as JSON and as text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mqttkit import __version__
from mqttkit.bench.machine import describe_machine
from mqttkit.bench.plan import Plan

FORMAT = 1
"""Version of the JSON."""
BUSY_PERCENT, BUSY_SECONDS, LATE_MS = 90.0, 1.0, 100.0
SHORTEST_SECONDS = 0.1
"""A shorter run says nothing about the generator."""
GENERATOR_LIMIT = "the load generator was the limit: it used a whole core; the broker may be faster"
GENERATOR_LATE = "the load generator fell behind its schedule; the latencies include the delay"
LOSSES = ("lost", "dropped", "failed")
"""Metrics that must be 0."""


@dataclass
class BenchResult:
    """One run."""

    plan: Plan
    metrics: dict[str, float] = field(default_factory=dict)
    """Values by name, see METRICS; each scenario measures some of them."""
    points: list[dict[str, float]] = field(default_factory=list)
    """Rate and latency over time, of the first subscriber."""
    notes: list[str] = field(default_factory=list)
    """Remarks that readers of the numbers need."""
    partial: str = ""
    """Why the run ended early; empty if it did not."""
    exit_code: int = 0
    """The exit code of an early end."""

    def note_generator(self, cpu: float, seconds: float, *, flat_out: bool) -> None:
        """Record what a process of the load generator used; note if that limited the run."""
        if seconds < SHORTEST_SECONDS:
            return
        share = 100 * cpu / seconds
        self.metrics["generator"] = max(share, self.metrics.get("generator", 0.0))
        busy = share >= BUSY_PERCENT and seconds >= BUSY_SECONDS
        late = self.metrics.get("behind", 0.0) > LATE_MS
        for applies, note in ((busy and (flat_out or late), GENERATOR_LIMIT), (late, GENERATOR_LATE)):
            if applies and note not in self.notes:
                self.notes.append(note)

    @property
    def losses(self) -> str:
        """What did not arrive, as text; empty if everything did."""
        found = [f"{show(self.metrics[name])} {METRICS[name].text}" for name in LOSSES if self.metrics.get(name)]
        return ", ".join(found)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "format": FORMAT,
            "mqttkit": __version__,
            "python": platform.python_version(),
            "machine": describe_machine(),
            "plan": asdict(self.plan),
            "partial": self.partial,
            "metrics": self.metrics,
            "notes": self.notes,
            "points": self.points,
        }


@dataclass(frozen=True)
class ResultMetric:
    """How to show and compare a value."""

    text: str
    unit: str
    more_is_better: bool | None = None
    """None if a change is neither better nor worse."""


METRICS: Mapping[str, ResultMetric] = {
    "published": ResultMetric("published", "messages"),
    "received": ResultMetric("received", "messages"),
    "publish_rate": ResultMetric("publish rate", "messages/s", True),
    "rate": ResultMetric("rate", "messages/s", True),
    "mib": ResultMetric("throughput", "MiB/s", True),
    "p50": ResultMetric("latency p50", "ms", False),
    "p90": ResultMetric("latency p90", "ms", False),
    "p99": ResultMetric("latency p99", "ms", False),
    "p999": ResultMetric("latency p99.9", "ms", False),
    "max": ResultMetric("latency max", "ms", False),
    "behind": ResultMetric("largest delay of the load generator", "ms", False),
    "lost": ResultMetric("lost", "messages", False),
    "dropped": ResultMetric("dropped before sending", "messages", False),
    "failed": ResultMetric("denied or lost after sending", "messages", False),
    "duplicated": ResultMetric("duplicated", "messages", False),
    "reordered": ResultMetric("reordered", "messages", False),
    "cpu_publish": ResultMetric("CPU, publishing side", "us/message", False),
    "cpu_receive": ResultMetric("CPU, receiving side", "us/message", False),
    "memory_publish": ResultMetric("peak memory, publishing side", "MiB", False),
    "memory": ResultMetric("peak memory, receiving side", "MiB", False),
    "clients": ResultMetric("clients connected", "clients"),
    "connect_rate": ResultMetric("connections", "clients/s", True),
    "generator": ResultMetric("CPU of the load generator", "% of a core"),
}


def as_text(result: BenchResult) -> list[str]:
    """Return the result as lines of text."""
    width = max((len(METRICS[name].text) for name in result.metrics), default=0)
    lines = [
        f"{METRICS[name].text:{width}}  {show(value):>12} {METRICS[name].unit}"
        for name, value in result.metrics.items()
    ]
    lines += [f"note: {note}" for note in result.notes]
    if result.partial:
        lines.append(f"PARTIAL: {result.partial}")
    return lines


def show(value: float) -> str:
    """Return a number with three significant digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
