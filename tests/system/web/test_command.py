"""`mqttkit web` as a command."""

from __future__ import annotations

import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto
from tests.support.commands import MQTTKIT, mqttkit

pytestmark = pytest.mark.system


def test_it_prints_the_address_and_serves_until_it_is_told_to_end(shared_broker: Mosquitto) -> None:
    command = [*MQTTKIT, "web", "-h", "127.0.0.1", "-p", str(shared_broker.port), "none/#"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert b"mqttkit web" in answer.read()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, b"")


def test_errors_name_the_mistake(shared_broker: Mosquitto, tmp_path: Path) -> None:
    port = shared_broker.port
    done = mqttkit("web", "--listen", "0.0.0.0:0", port=port)
    assert (done.returncode, b"--page-password-file" in done.stderr) == (2, True)
    done = mqttkit("web", "--listen", "nonsense:x", port=port)
    assert (done.returncode, b"--listen: port must be 1 to 65535" in done.stderr) == (2, True)
    short = tmp_path / "password"
    short.write_text("too-short\n")
    short.chmod(0o600)
    done = mqttkit("web", "--listen", "0.0.0.0:0", "--page-password-file", str(short), port=port)
    assert (done.returncode, b"12 characters" in done.stderr, b"too-short" in done.stderr) == (2, True, False)
    assert mqttkit("web", "$share/group/a", port=port).returncode == 2
    assert mqttkit("web", "--no-retry", port=1).returncode == 3
