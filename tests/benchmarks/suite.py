"""Measure the figures that mqttkit promises, one after the other: `make bench`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mqttkit.bench.conditions import parse_condition
from mqttkit.bench.connections import allow_files
from mqttkit.bench.plan import Plan
from mqttkit.bench.result import Result, as_text
from mqttkit.bench.stop import StopFlag
from tests.benchmarks.footprint import run_footprint
from tests.benchmarks.lifecycle import run_lifecycle
from tests.benchmarks.step import run_step

CLIENTS = 1_000


@dataclass(frozen=True)
class Step:
    """One run and what it must not do."""

    name: str
    plan: Plan | None
    """None where `measure` does it without a load."""
    fail_if: tuple[str, ...] = ()
    measure: Callable[[], Result] = run_footprint
    """What is run instead of a plan."""


def steps(seconds: float) -> tuple[Step, ...]:
    """Return the steps, those with a load `seconds` long."""

    def plan(scenario: str, **fields: object) -> Plan:
        base = Plan(scenario=scenario, topic="mqttkit-bench", duration=seconds)
        return replace(base, **fields)  # type: ignore[arg-type]  # the fields of Plan

    return (
        Step("memory and start of the commands", None, ("uss_over_python>10", "help_ratio>1.5")),
        Step("a broker's life", None, ("up_process>1000", "user_login>1000"), run_lifecycle),
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
            f"{CLIENTS} idle clients",
            plan("connections", subscribers=CLIENTS, duration=2),
            ("lost>0", "memory_growth>1.3", "threads_client>1.01"),
        ),
    )


def run_suite(seconds: float, stop: StopFlag, begin: Callable[[str], None]) -> Iterator[tuple[str, Result, list[str]]]:
    """Yield name, result and failures of each step; `begin` gets the name before.

    Each step has a broker of its own, and each load a process.
    """
    allow_files(CLIENTS * 2)
    for step in steps(seconds):
        if stop.is_set():
            return
        begin(step.name)
        result = step.measure() if step.plan is None else run_step(step.plan, stop)
        failures = [why for text in step.fail_if if (why := parse_condition(text).failure(result.metrics))]
        yield step.name, result, failures + ([result.partial] if result.partial else [])


def main() -> int:
    """Run the suite; return 1 if a figure missed its limit."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.suite", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each load (default 12)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each step")
    options = parser.parse_args()
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    failed = []
    for name, result, failures in run_suite(options.seconds, stop, lambda name: print(f"… {name}", file=sys.stderr)):
        if options.json:
            print(json.dumps({"name": name, "failures": failures, **result.as_json()}))
        else:
            print("\n  ".join([f"{name}:", *as_text(result), *(f"FAILED: {why}" for why in failures)]), flush=True)
        failed += failures
    return 130 if stop.is_set() else int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
