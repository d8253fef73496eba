"""Many idle connections: how fast the broker takes them, and whether it keeps them."""

from __future__ import annotations

import time

from mqttkit.bench.fleet import TURN_SECONDS, Fleet
from mqttkit.bench.plan import Plan
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.usage import allow_files, cpu_seconds, peak_memory
from mqttkit.errors import Interrupted, MqttkitError
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop


def run_connections(plan: Plan, settings: MqttSettings, stop: Stop) -> BenchResult:
    """Connect `plan.subscribers` clients, and keep them for `plan.duration` seconds."""
    allow_files(plan.subscribers)
    result = BenchResult(plan)
    with Fleet(settings) as fleet:
        began, cpu = time.monotonic(), cpu_seconds()
        try:
            fleet.connect(plan.subscribers, stop, rate=plan.connect_rate)
            result.metrics["connect_rate"] = len(fleet.members) / max(time.monotonic() - began, 1e-6)
            if plan.connect_rate:
                result.metrics["behind"] = fleet.behind * 1000
            result.note_generator(cpu_seconds() - cpu, time.monotonic() - began, flat_out=not plan.connect_rate)
            _keep(fleet, plan.duration, stop)
        except MqttkitError as error:
            if not fleet.connecting.total:
                raise
            result.partial = f"after {fleet.connecting.total} clients: {error}"
            result.exit_code = error.exit_code
        result.metrics["clients"] = fleet.connecting.total
        result.metrics["lost"] = fleet.lost
        result.metrics.update(fleet.connecting.summary())
        result.metrics["memory"] = peak_memory() / (1024 * 1024)
    if stop.is_set and not result.partial:
        result.partial, result.exit_code = "interrupted", Interrupted.exit_code
    return result


def _keep(fleet: Fleet, seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while not stop.is_set and (left := end - time.monotonic()) > 0:
        fleet.turn(min(left, TURN_SECONDS))
