"""One run in its own process with its own broker: `python -m tests.benchmarks.step`, with the plan on stdin.

No run pays for the memory and the threads of an earlier one.
"""

from __future__ import annotations

import json
import logging
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

from mqttkit.bench.feeder import stop_at_end
from mqttkit.bench.own_broker import own_broker
from mqttkit.bench.plan import Plan
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.run import run
from mqttkit.errors import MqttkitError
from mqttkit.settings import LimitSettings, MqttSettings
from mqttkit.stop import Stop

WINDOW = 1_000


def run_step(plan: Plan, stop: Stop) -> BenchResult:
    """Do one run; `stop` ends it with a partial result. Raise MqttkitError if it cannot start."""
    command = [sys.executable, "-m", "tests.benchmarks.step"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(plan))
        process.stdin.flush()
        lines: list[bytes] = []
        read = process.stdout.read
        reader = threading.Thread(target=lambda: lines.append(read()), daemon=True)
        reader.start()
        while reader.is_alive() and not stop.is_set:
            reader.join(0.1)
        process.stdin.close()
        reader.join()
    found: dict[str, Any] = json.loads(lines[0]) if lines and lines[0] else {"error": "the process of the run exited"}
    if "error" in found:
        raise MqttkitError(found["error"])
    return BenchResult(plan, found["metrics"], found["points"], found["notes"], found["partial"])


def main() -> None:
    """Run the plan from stdin; the end of stdin stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the group; the parent decides
    logging.getLogger("mqttkit").setLevel(logging.CRITICAL)
    plan = pickle.load(sys.stdin.buffer)  # our own parent wrote it
    stop = Stop()
    threading.Thread(target=stop_at_end, args=(sys.stdin.fileno(), stop), daemon=True).start()
    try:
        with own_broker(tls=plan.tls, websockets=plan.websockets) as broker:
            limits = LimitSettings(max_inflight=WINDOW)
            found = run(plan, MqttSettings(broker=broker, limits=limits), stop=stop).as_json()
    except MqttkitError as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
