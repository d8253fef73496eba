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
from pathlib import Path
from typing import Any

from tests.support.brokers import missing, need

IMAGE = "mqttkit/mosquitto-offline:2.0"
OFFLINE = Path(__file__).parents[2] / "containers" / "offline"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mqttkit-tests"
START_SECONDS = 30.0


@contextlib.contextmanager
def docker_engine() -> Iterator[str]:
    """Yield the address (DOCKER_HOST) of an engine that has the offline image."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if answers(address):
        ensure_image(address)
        yield address
        return
    with _private_engine() as address:
        ensure_image(address)
        yield address


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
def _private_engine() -> Iterator[str]:
    if os.geteuid() != 0:
        missing("no Docker engine answers, and only root can start one")
    for program in ("dockerd", "docker", "ip", "iptables"):
        need(program)
    place = Path(tempfile.mkdtemp(prefix="mqttkit-docker-", dir="/tmp"))
    bridge = f"mk{os.getpid() % 10_000_000}"
    try:
        with _bridge(bridge), _daemon(place, bridge) as address:
            yield address
            left = _ours(address)
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
def _daemon(place: Path, bridge: str) -> Iterator[str]:
    address = f"unix://{place}/docker.sock"
    with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    command = [*with_us, need("dockerd"), "--host", address, "--bridge", bridge]
    for option, name in (("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "docker.pid")):
        command += [option, str(place / name)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(address, process, place / "log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            missing(f"dockerd did not start: {last}")
        time.sleep(0.1)


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(OFFLINE.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
