"""mqttkit against other client libraries: what it publishes they read and publish again, and it reads that."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mqttkit.errors import MqttkitError
from tests.interoperability.debian import NotInstalled, run
from tests.interoperability.features import SECONDS, client
from tests.interoperability.nodes import Cluster

ECHO = Path(__file__).parent / "echo"
PAYLOADS = (b"", b"text", "ä→\N{GRINNING FACE}".encode(), bytes(range(256)), b"x" * 100_000)
ROUNDS = 20
"""How often each payload is sent, at each QoS."""


def python_libraries(directory: Path) -> Path:
    """Install aiomqtt and gmqtt into a virtual environment; return its Python."""
    python = directory / "client-python" / "bin" / "python"
    if not (directory / "client-python" / "done").exists():
        run([sys.executable, "-m", "venv", str(directory / "client-python")])
        run([str(python), "-m", "pip", "install", "--quiet", "aiomqtt", "gmqtt"])
        (directory / "client-python" / "done").touch()
    return python


def library_version(python: Path, name: str) -> str:
    """Return the version of a library."""
    show = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run([str(python), "-c", show], capture_output=True, text=True).stdout.strip()


def mqttjs(directory: Path) -> Path:
    """Install MQTT.js; return the directory of the program that uses it."""
    packages = directory / "mqttjs-packages"
    packages.mkdir(exist_ok=True)
    if not (packages / "node_modules" / "mqtt").exists():
        (packages / "package.json").write_text('{"private": true}')
        run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "mqtt"], packages)
    shutil.copy(ECHO / "mqttjs.mjs", packages)
    return packages


def libraries(directory: Path) -> dict[str, tuple[str, list[str]] | str]:
    """Return version and command of each library, or why it is not there."""
    found: dict[str, tuple[str, list[str]] | str] = {}
    try:
        packages = mqttjs(directory)
        version = json.loads((packages / "node_modules" / "mqtt" / "package.json").read_text())["version"]
        found["MQTT.js"] = (version, ["node", str(packages / "mqttjs.mjs")])
    except NotInstalled as error:
        found["MQTT.js"] = str(error)
    for name in ("aiomqtt", "gmqtt"):
        try:
            python = python_libraries(directory)
            found[name] = (library_version(python, name), [str(python), str(ECHO / f"with_{name}.py")])
        except NotInstalled as error:
            found[name] = str(error)
    return found


def exchange(cluster: Cluster, command: Sequence[str], version: str) -> str:
    """Return how many of the messages came back as they were sent, with that MQTT version on the library's side."""
    prefix = f"mqttkit/echo/{secrets.token_hex(4)}"
    number = "5" if version == "5" else "4"
    words = [*command, str(cluster.ports[0]), number, prefix]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as echo:
        try:
            assert echo.stdout is not None
            if echo.stdout.readline().strip() != b"ready":
                return "does not start"
            return _compare(cluster, prefix)
        except (MqttkitError, TimeoutError) as error:
            return f"error: {error}"[:80]
        finally:
            echo.kill()


def _compare(cluster: Cluster, prefix: str) -> str:
    """Send one message at a time: at QoS 0 mosquitto drops what a client's socket has no room for."""
    total = right = 0
    with client(cluster) as one:
        one.subscribe(f"{prefix}/from/#", qos=2, timeout=SECONDS)
        for qos in range(3):
            for number in range(ROUNDS * len(PAYLOADS)):
                place, payload = f"{qos}/{number}/ü b", PAYLOADS[number % len(PAYLOADS)]
                one.publish(f"{prefix}/to/{place}", payload, qos=qos, wait=SECONDS)
                message = next(one.messages(SECONDS), None)
                total += 1
                if message is not None:
                    right += (message.topic, message.payload, message.qos) == (f"{prefix}/from/{place}", payload, qos)
    return "yes" if right == total else f"{right} of {total}"
