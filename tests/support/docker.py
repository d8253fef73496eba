"""A Docker engine for tests: the machine's own where one answers, else one started for the session by root.

The engine of the session has a socket, a data directory and a bridge of its own, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.brokers import missing, need

IMAGE = "mqttkit/mosquitto-offline:2.0"
OFFLINE = Path(__file__).parents[2] / "containers" / "offline"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mqttkit-tests"
START_SECONDS = 30.0


@dataclass
class Engine:
    """A Docker engine that has the offline image."""

    address: str
    """DOCKER_HOST."""
    place: Path | None = None
    """Directory of an engine that we started; None for the machine's own."""
    bridge: str = ""
    """Its network bridge."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        assert self.place is not None
        with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = [*with_us, need("dockerd"), "--host", self.address, "--bridge", self.bridge]
        for option, name in (("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "docker.pid")):
            command += [option, str(self.place / name)]
        for attempts_left in (1, 0):  # on a busy machine its containerd sometimes starts too late for dockerd
            with (self.place / "log").open("wb") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            trouble = _wait_for(self.address, self.process, self.place / "log")
            if not trouble:
                return
            self.stop()
            if not attempts_left:
                missing(f"dockerd did not start: {trouble}")

    def stop(self) -> None:
        """Stop the daemon and wait until it is gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def restart(self) -> None:
        """Restart the engine, as a reboot does; skip the test if it is the machine's own."""
        if self.place is None:
            missing("this machine's own Docker engine is not ours to restart")
        self.stop()
        self.start()


@contextlib.contextmanager
def docker_engine() -> Iterator[Engine]:
    """Yield an engine that has the offline image."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if answers(address):
        ensure_image(address)
        yield Engine(address)
        return
    with _private_engine() as engine:
        ensure_image(engine.address)
        yield engine


def answers(address: str) -> bool:
    """Tell whether an engine answers there; the SDK would leak its socket where none does."""
    import docker
    from docker.errors import DockerException
    from requests import RequestException

    with socket.socket(socket.AF_UNIX) as knocking:
        if address.startswith("unix://") and knocking.connect_ex(address.removeprefix("unix://")):
            return False
    with contextlib.closing(docker.APIClient(base_url=address, version="1.41", timeout=5)) as client:
        try:
            return bool(client.version(api_version=False))
        except (DockerException, RequestException):
            return False


def ensure_image(address: str) -> None:
    """Load the offline image from the cache, or build it; its cache follows the files it is built from."""
    import docker
    from docker.errors import ImageNotFound

    client = docker.DockerClient(base_url=address, timeout=120)
    try:
        with contextlib.suppress(ImageNotFound):
            client.images.get(IMAGE)
            return
        saved = CACHE / f"offline-{_fingerprint()}.tar"
        if saved.exists():
            client.images.load(saved.read_bytes())
            return
        run([str(OFFLINE / "build"), IMAGE], DOCKER_HOST=address)
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = saved.with_suffix(f".{os.getpid()}")
        beside.write_bytes(b"".join(client.images.get(IMAGE).save(named=True)))
        beside.replace(saved)
    finally:
        client.close()


def run(command: list[str], **environment: str) -> str:
    """Run a command and return its output; its errors show in the failure."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def leftovers(client: Any) -> dict[str, set[str]]:
    """Return every container, volume and network of the engine by name."""
    return {
        "containers": {container.name for container in client.containers.list(all=True)},
        "volumes": {volume.name for volume in client.volumes.list()},
        "networks": {network.name for network in client.networks.list()},
    }


@contextlib.contextmanager
def _private_engine() -> Iterator[Engine]:
    if os.geteuid() != 0:
        missing("no Docker engine answers, and only root can start one")
    for program in ("dockerd", "docker", "ip", "iptables"):
        need(program)
    place = Path(tempfile.mkdtemp(prefix="mqttkit-docker-", dir="/tmp"))
    bridge = f"mk{os.getpid() % 10_000_000}"
    try:
        with _bridge(bridge), _daemon(place, bridge) as engine:
            yield engine
            left = _ours(engine.address)
        assert not left, f"the tests left {left} behind"
        running = _processes_of(place)
        assert not running, f"the engine left {running} behind"
    finally:
        shutil.rmtree(place)


def _ours(address: str) -> set[str]:
    """Return every container, and each volume and network but the engine's own, that is left."""
    import docker

    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        return set().union(*leftovers(client).values()) - {"bridge", "host", "none"}


def _processes_of(place: Path) -> list[str]:
    """Return the command lines that name the engine's directory: its shims, proxies and itself."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if entry.name.isdigit() and str(place) in line:
                found.append(line)
    return found


@contextlib.contextmanager
def _bridge(name: str) -> Iterator[None]:
    """Make a bridge with a subnet that no other engine of this machine hands out."""
    run(["ip", "link", "add", name, "type", "bridge"])
    try:
        run(["ip", "address", "add", f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}.1/24", "dev", name])
        run(["ip", "link", "set", name, "up"])
        yield
    finally:
        run(["ip", "link", "delete", name])


@contextlib.contextmanager
def _daemon(place: Path, bridge: str) -> Iterator[Engine]:
    engine = Engine(f"unix://{place}/docker.sock", place, bridge)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the engine answers; return its last words if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        time.sleep(0.1)
    return ""


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(OFFLINE.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
