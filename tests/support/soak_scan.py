"""Watch the memory of `mqttkit publish-scan` for an hour: `make soak-scan`.

5,000 simulated devices at QoS 1; the broker is restarted every five minutes. What the first two minutes allocate is not
counted: it is the caches' first fill.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import Figure, at_most, say
from tests.support.brokers import Mosquitto
from tests.support.process_usage import private_memory

MIB = 1024 * 1024
WARM_UP_SECONDS, SAMPLE_SECONDS, RESTART_SECONDS = 120.0, 10.0, 300.0
GROWTH_MIB = 1.0


def main() -> None:
    """Run the command and print what its memory did; exit with 1 if it grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3_600)
    parser.add_argument("--rate", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        broker = Mosquitto(Path(directory))
        broker.start()
        command = [sys.executable, "-m", "mqttkit", "publish-scan", "--source", "simulated", "--devices", "5000"]
        command += ["--rate", str(given.rate), "-q", "1", "-p", str(broker.port)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                samples = _watch(process, broker, given.seconds)
            finally:
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=60)
                broker.stop()
    say(log.splitlines()[-1])
    quarter = max(len(samples) // 4, 1)
    first, last = (statistics.median(part) for part in (samples[:quarter], samples[-quarter:]))
    growth = at_most("growth from the first quarter to the last one", last - first, "MiB", GROWTH_MIB)
    say(str(Figure("private memory, median of the last quarter", round(last, 2), "MiB")))
    say(str(Figure("private memory, most", round(max(samples), 2), "MiB")))
    say(str(growth))
    sys.exit(0 if growth.met else 1)


def _watch(process: subprocess.Popen[str], broker: Mosquitto, seconds: float) -> list[float]:
    """Return the private memory in MiB, every ten seconds."""
    begin = time.monotonic()
    restart = begin + RESTART_SECONDS
    samples = []
    time.sleep(min(WARM_UP_SECONDS, seconds / 4))
    while time.monotonic() < begin + seconds and process.poll() is None:
        samples.append(private_memory(process.pid) / MIB)
        time.sleep(SAMPLE_SECONDS)
        if time.monotonic() >= restart:
            broker.stop()
            broker.start()
            restart += RESTART_SECONDS
    return samples


if __name__ == "__main__":
    main()
