"""A two-node cluster of aedes brokers over Redis, from npm."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mqttkit.broker.probe import Login
from mqttkit.broker.readiness import wait_ready
from tests.support.brokers import free_port, missing, need

HERE = Path(__file__).parent


def install(directory: Path) -> None:
    """Install the packages into the directory; fail under CI=true and skip elsewhere where that cannot be."""
    need("node")
    npm = need("npm")
    for name in ("package.json", "node.mjs"):
        shutil.copy(HERE / name, directory / name)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    if done.returncode:
        missing(f"npm cannot install aedes: {done.stderr.strip()[-300:]}")


def _died(node: subprocess.Popen[bytes], output: Path) -> str:
    return "" if node.poll() is None else output.read_text()


@contextlib.contextmanager
def aedes_cluster(
    directory: Path, redis_port: int, nodes: int = 2
) -> Iterator[list[tuple[int, subprocess.Popen[bytes]]]]:
    """Run nodes that share the Redis; give each one's port and process."""
    directory.mkdir()
    install(directory)
    running: list[tuple[int, subprocess.Popen[bytes]]] = []
    try:
        for _ in range(nodes):
            port = free_port()
            output = directory / "aedes.log"
            with output.open("ab") as log:
                command = [need("node"), "node.mjs", str(port), str(redis_port)]
                node = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
            running.append((port, node))
            died = functools.partial(_died, node, output)
            wait_ready(Login(host="127.0.0.1", port=port), seconds=60, died=died)
        yield running
    finally:
        for _, process in running:
            process.kill()
            process.wait()
