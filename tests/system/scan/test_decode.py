"""`mqttkit decode` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.testing.broker import TestBroker
from tests.support.clients import settings_for, wait_until

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "mqttkit", "decode"]
BEACON = {"mac_address": "AA:BB:CC:DD:EE:FF", "rssi": -60, "service_data": {"feaa": "200000001480000000000a00000065"}}
PHONE = {"mac_address": "AA:BB:CC:DD:EE:00", "manufacturer_data": {"4c00": "1005031c0ba2b1"}}


def test_a_recording_is_decoded_and_the_rest_listed(tmp_path: Path) -> None:
    """Readings on stdout; the summary and the devices without values on stderr."""
    recording = tmp_path / "room.jsonl"
    recording.write_text("".join(f"{json.dumps(line)}\n" for line in (BEACON, PHONE)))
    done = subprocess.run([*COMMAND, "--once", str(recording), "--json"], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["values"]["temperature"] == 20.5
    assert "1 of 2 advertisements have values" in done.stderr
    assert "no decoder: " in done.stderr
    assert "AA:BB:CC:DD:EE:00" in done.stderr


def test_the_service_publishes_states_and_ends_with_0_on_sigterm(shared_broker: TestBroker, topic: str) -> None:
    """Then the removal lists the device, and removes it with --yes."""
    address = ["-p", str(shared_broker.port), "--state", f"{topic}/state/{{mac_address}}", "--prefix", f"{topic}/ha"]
    state = f"{topic}/state/{BEACON['mac_address']}"
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=10)
        latest: dict[str, str] = {}
        with subprocess.Popen([*COMMAND, *address, "--raw", f"{topic}/raw/#"]) as process:
            try:
                client.subscribe("ble/decode/status", state)
                messages = client.messages()

                def ready() -> bool:
                    client.publish(f"{topic}/raw/hall/x", json.dumps({**BEACON, "scanner_id": "hall"}), qos=1).result(
                        10
                    )
                    message = next(messages)
                    latest[message.topic] = message.text
                    return state in latest

                wait_until(ready)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()
        assert json.loads(latest[state])["values"]["temperature"] == 20.5
        for more, expected in ([], "1 devices to remove"), (["--yes"], "1 devices removed"), ([], "0 devices"):
            removal = [*COMMAND, *address, "--remove-silent", "0.0000001", *more]
            done = subprocess.run(removal, capture_output=True, text=True, check=True)
            assert expected in done.stderr


@pytest.mark.parametrize("days", ["-3", "0", "nan"])
def test_every_device_is_not_silent_for_so_many_days(days: str) -> None:
    """A mistyped number must not remove devices that are heard now."""
    done = subprocess.run([*COMMAND, "--remove-silent", days, "--yes"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--remove-silent" in done.stderr
