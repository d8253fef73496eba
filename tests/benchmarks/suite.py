"""Measure the figures that mqttkit promises, one after the other: `make bench`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from mqttkit.bench.plan import Plan
from mqttkit.bench.report.conditions import parse_condition
from mqttkit.bench.report.result import as_text
from mqttkit.bench.usage import allow_files
from mqttkit.stop import Stop
from tests.benchmarks.figures import Figure, say, say_progress
from tests.benchmarks.footprint import measure_footprint
from tests.benchmarks.idle_clients import measure_idle_clients
from tests.benchmarks.lifecycle import measure_lifecycle
from tests.benchmarks.step import run_step

CLIENTS = 1_000


MEASUREMENTS: dict[str, Callable[[], Iterable[Figure]]] = {
    "memory and start of the commands": measure_footprint,
    "start, accounts and backup of a broker": measure_lifecycle,
    "memory and threads of idle clients": measure_idle_clients,
}


@dataclass(frozen=True)
class Step:
    """One load, and the conditions that make it a failure."""

    name: str
    plan: Plan
    fail_if: tuple[str, ...] = ()


def steps(seconds: float) -> tuple[Step, ...]:
    """Return the loads; those without a count take `seconds`."""

    def plan(scenario: str, **fields: object) -> Plan:
        base = Plan(scenario=scenario, topic="mqttkit-bench", duration=seconds)
        return replace(base, **fields)  # type: ignore[arg-type]  # the fields of Plan

    return (
        Step(
            "scan, 1,000 advertisements/s",
            plan("scan", subscribers=1, rate=1_000),
            ("p99>5ms", "lost>0", "dropped>0", "duplicated>0"),
        ),
        *(
            Step(
                f"scan, {rate:,} advertisements/s",
                plan("scan", subscribers=1, rate=rate),
                ("lost>0", "dropped>0", "behind>500ms", "duplicated>0"),
            )
            for rate in (10_000, 20_000)
        ),
        Step("publish QoS 0", plan("pub"), ("failed>0", "dropped>0")),
        Step("publish QoS 1", plan("pub", qos=1), ("failed>0", "dropped>0")),
        Step("receive QoS 0", plan("sub", subscribers=1, count=1_000_000, duration=0), ("lost>0", "reordered>0")),
        Step("receive QoS 1", plan("sub", subscribers=1, qos=1, count=200_000, duration=0), ("lost>0", "reordered>0")),
        Step("publish QoS 0 over TLS", plan("pub", tls=True), ("failed>0", "dropped>0")),
        Step(
            "receive QoS 0 over TLS",
            plan("sub", subscribers=1, count=300_000, duration=0, tls=True),
            ("lost>0", "reordered>0"),
        ),
        Step(
            "receive QoS 0 over WebSockets",
            plan("sub", subscribers=1, count=300_000, duration=0, websockets=True),
            ("lost>0", "reordered>0"),
        ),
        Step("round trip, 1,000 messages/s", plan("roundtrip", subscribers=1, qos=1, rate=1_000), ("lost>0",)),
        Step("fan-in of 10", plan("fan-in", publishers=10, subscribers=1, rate=5_000), ("lost>0",)),
        Step("fan-out to 10", plan("fan-out", subscribers=10, rate=1_000), ("lost>0",)),
        Step(
            f"{CLIENTS} idle connections",
            plan("connections", publishers=0, subscribers=CLIENTS, duration=2),
            ("lost>0",),
        ),
    )


def run_measurement(name: str, *, as_json: bool) -> bool:
    """Measure and print figures; return False if one missed its goal."""
    good = True
    say_progress(f"… {name}")
    for figure in MEASUREMENTS[name]():
        good = good and figure.met is not False
        say(json.dumps(asdict(figure)) if as_json else str(figure))
    return good


def run_load(step: Step, stop: Stop, *, as_json: bool) -> bool:
    """Run a load in its own process and print its result; return False if it failed."""
    say_progress(f"… {step.name}")
    result = run_step(step.plan, stop)
    failures = [why for text in step.fail_if if (why := parse_condition(text).failure(result.metrics))]
    failures += [result.partial] if result.partial else []
    if as_json:
        say(json.dumps({"name": step.name, "failures": failures, **result.as_json()}))
    else:
        say("\n  ".join([f"{step.name}:", *as_text(result), *(f"FAILED: {why}" for why in failures)]))
    return not failures


def main() -> int:
    """Run the suite; return 1 if a figure missed its goal."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.suite", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each load (default 12)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the steps whose name contains TEXT")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    allow_files(CLIENTS * 2)
    good = [run_measurement(name, as_json=options.json) for name in MEASUREMENTS if options.only in name]
    for step in steps(options.seconds):
        if options.only in step.name and not stop.is_set:
            good.append(run_load(step, stop, as_json=options.json))
    return 130 if stop.is_set else int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
