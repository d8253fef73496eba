"""CPU and memory of `mqttkit top` on a busy broker: `python -m tests.benchmarks.live_view`.

10,000 topics with 10 messages a second each, at 10 frames a second on a pseudo-terminal of 120 x 40 characters.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from mqttkit.client import MqttClient
from mqttkit.settings import BrokerSettings, MqttSettings
from tests.support.process_usage import private_memory

MIB = 1024 * 1024
PARTS = 100
"""A second's messages leave in so many parts."""
WARM_UP_SECONDS = 10.0
RATE = re.compile(rb"([\d,.]+) msg/s")


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=10, help="messages per second and topic")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--publish", metavar="PORT", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.publish:
        _publish(given.publish, given.topics, given.rate)
        return
    with own_broker() as broker:
        arguments = ["--topics", str(given.topics), "--rate", str(given.rate), "--publish", str(broker.port)]
        command = [sys.executable, "-m", "tests.benchmarks.live_view", *arguments]
        with subprocess.Popen(command) as publisher:
            try:
                _measure(broker.port, given.seconds)
            finally:
                publisher.terminate()


def _measure(port: int, seconds: float) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "mqttkit", "top", "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    output: list[bytes] = []
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        threading.Thread(target=_read, args=(screen, output), daemon=True).start()
        while b"msg/s" not in b"".join(output[-20:]):
            time.sleep(0.1)
        time.sleep(WARM_UP_SECONDS)
        os.write(screen, b"+")  # open every branch: all topics are rows
        time.sleep(2)
        output.clear()
        began, used = time.monotonic(), cpu_seconds(process.pid)
        time.sleep(seconds)
        cpu = (cpu_seconds(process.pid) - used) / (time.monotonic() - began)
        memory, resident = private_memory(process.pid), _resident(process.pid)
        rates = [float(found.replace(b",", b"")) for found in RATE.findall(b"".join(output))]
        process.terminate()
    shown = sum(rates) / len(rates) if rates else 0.0
    print(f"messages/s shown     {shown:,.0f}")
    print(f"CPU of one core      {100 * cpu:.1f} %")
    print(f"CPU per message      {1e6 * cpu / shown:.2f} us" if shown else "no rate shown")
    print(f"private memory       {memory / MIB:.1f} MiB")
    print(f"resident memory      {resident / MIB:.1f} MiB")


def _read(screen: int, output: list[bytes]) -> None:
    """Collect what the command draws, until it ends."""
    try:
        while data := os.read(screen, 65_536):
            output.append(data)
    except OSError:  # the terminal is closed
        return


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process_id: int) -> int:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _publish(port: int, topics: int, rate: int) -> None:
    """Publish on each topic `rate` times a second until the process is ended."""
    names = [f"plant/line-{number // 100:03}/sensor-{number % 100:02}/temperature" for number in range(topics)]
    each = topics * rate // PARTS
    with MqttClient(MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=port))) as client:
        client.connect()
        due, position = time.monotonic(), 0
        while True:
            payload = b"%.3f" % (20 + due % 10)
            for number in range(position, position + each):
                client.publish(names[number % topics], payload, wait=5)
            position += each
            due += 1 / PARTS
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
