"""The broker, the Redis server and the bridge that the figures need, each in its own process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mqttkit.broker.ports import free_port
from mqttkit.client import MqttClient
from mqttkit.errors import MissingPart, MqttkitError
from mqttkit.messages import Subscription
from mqttkit.settings import BrokerSettings, ClientSettings, LimitSettings, MqttSettings

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
SESSION = "bench-bridge"
STREAM = "mqttkit:metrics"


@contextlib.contextmanager
def running(command: list[str], port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the body runs; wait until it accepts connections."""
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: accepts(port), 10, command[0])
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def need(program: str) -> str:
    """Return the program's path; raise MissingPart."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise MissingPart(f"{program} is not installed", hint=f"apt-get install {program}")
    return found


class Setup:
    """A broker and a Redis server, and a bridge between them that can start and stop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker, self.redis, self.health = free_port(), free_port(), free_port()
        self._stack = contextlib.ExitStack()
        (directory / "tenants.yaml").write_text(f"- {TENANT}\n", "utf-8")

    def __enter__(self) -> Setup:
        conf = self.directory / "mosquitto.conf"
        lines = [f"listener {self.broker} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        conf.write_text("\n".join([*lines, *(["user root"] if os.geteuid() == 0 else [])]) + "\n", "utf-8")
        self._stack.enter_context(running([need("mosquitto"), "-c", str(conf)], self.broker, self.directory))
        self.start_redis()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_redis(self) -> subprocess.Popen[bytes]:
        """Start Redis, with an append-only file."""
        command = [need("redis-server"), "--port", str(self.redis), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "yes", "--dir", str(self.directory)]
        return self._stack.enter_context(running(command, self.redis, self.directory))

    @contextlib.contextmanager
    def bridge(self, sink: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the bridge as a user would."""
        command = [sys.executable, "-m", "mqttkit", "bridge", "run", "-h", "127.0.0.1", "-p", str(self.broker)]
        command += ["--sink", sink, "--tenants", str(self.directory / "tenants.yaml"), "-i", SESSION, "--quiet"]
        command += ["--health-port", str(self.health), *options]
        environment = {**os.environ, "MQTTKIT_MQTT_CLIENT_RECEIVE_MAXIMUM": "2000"}
        environment |= {"MQTTKIT_BRIDGE_BATCH_SIZE": "1000"}
        process = subprocess.Popen(command, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    @contextlib.contextmanager
    def worker(self, sink: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker that moves the stream into `sink`."""
        command = [sys.executable, "-m", "mqttkit", "bridge", "worker", "--source", f"redis://127.0.0.1:{self.redis}"]
        environment = {**os.environ, "XDG_STATE_HOME": str(self.directory), "MQTTKIT_BRIDGE_BATCH_SIZE": "1000"}
        process = subprocess.Popen([*command, "--sink", sink, "--quiet"], env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def client(self, **session: Any) -> MqttClient:
        """Return a client of the broker, not connected."""
        settings = MqttSettings(
            broker=BrokerSettings(host="127.0.0.1", port=self.broker),
            client=ClientSettings(**session),
            limits=LimitSettings(max_inflight=2_000, max_queued_messages=4_000),
        )
        return MqttClient(settings)

    def make_session(self) -> None:
        """Create an empty session with a subscription, as if the bridge had disconnected."""
        for clean in (True, False):
            with self.client(client_id=SESSION, clean_session=clean, session_expiry=3_600) as client:
                client.connect(timeout=10)
                if not clean:
                    client.subscribe(Subscription("metrics/#", qos=1))

    def queue(self, count: int, *, different: int | None = None) -> None:
        """Publish metrics that the broker queues for the session."""
        with self.client() as client:
            client.connect(timeout=10)
            for number in range(count):
                client.publish(topic(number), payload(number % (different or count)), qos=1, wait=60)
            client.flush(120)

    def clear(self) -> None:
        """Empty Redis."""
        with self.store() as store:
            store.flushall()

    def store(self) -> Any:
        """Return a Redis client."""
        import redis

        return redis.Redis(port=self.redis, decode_responses=True)


def topic(number: int) -> str:
    """Return the topic of a metric: a hundred agents with ten metrics each."""
    return f"metrics/{TENANT}/agent-{number % 100}/metric-{number % 10}"


def payload(number: int) -> bytes:
    """Return the payload of a device."""
    now = time.time_ns() // 1_000_000
    return b'{"value":%d.5,"timestamp":%d,"dedupe_id":"m-%09d","tags":{"unit":"C"}}' % (number, now, number)


def resident(pid: int, field: str = "VmRSS") -> int:
    """Return a process's resident memory in bytes; with VmHWM its peak."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def peak_resident(pid: int) -> int:
    """Return a process's peak resident memory in bytes."""
    return resident(pid, "VmHWM")


def is_ready(port: int) -> bool:
    """Return whether the bridge with this health port is ready."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def accepts(port: int) -> bool:
    """Return whether a server accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; raise MqttkitError when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MqttkitError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)
