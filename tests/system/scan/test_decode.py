"""`mqttkit decode` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.config import load_settings
from mqttkit.settings import DecodeSettings
from mqttkit.testing.broker import TestBroker
from tests.support.clients import settings_for, wait_until
from tests.support.pages import blocks, find_page

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


def test_an_invalid_line_of_a_recording_is_skipped_and_counted(tmp_path: Path) -> None:
    """As in a replay: a capture that was cut short is still worth decoding."""
    recording = tmp_path / "room.jsonl"
    recording.write_text(f"{{\n{json.dumps(BEACON)}\n[1]\n")
    done = subprocess.run([*COMMAND, "--once", str(recording), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["values"]["temperature"] == 20.5
    assert f"2 invalid records skipped; the first: {recording}:1: not an advertisement" in done.stderr


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


def test_the_settings_file_names_the_topics_and_a_flag_wins(
    shared_broker: TestBroker, topic: str, tmp_path: Path
) -> None:
    """No discovery message is published if the file says so."""
    config = tmp_path / "mqttkit.yaml"
    config.write_text(
        f"decode:\n  raw: {topic}/raw/#\n  state: {topic}/other/{{mac_address}}\n"
        f"  status: {topic}/status\n  prefix: {topic}/ha\n  discovery: false\n"
    )
    state = f"{topic}/state/{BEACON['mac_address']}"
    flags = ["--config", str(config), "-p", str(shared_broker.port), "--state", f"{topic}/state/{{mac_address}}"]
    received: list[str] = []
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=10)
        client.subscribe(f"{topic}/#")
        messages = client.messages()

        def until(last: str) -> None:
            for message in messages:
                received.append(message.topic)
                if message.topic == last:
                    return

        with subprocess.Popen([*COMMAND, *flags]) as process:
            try:
                until(f"{topic}/status")
                client.publish(f"{topic}/raw/hall/x", json.dumps({**BEACON, "scanner_id": "hall"}), qos=1).result(10)
                until(state)
            finally:
                process.kill()
    assert received == [f"{topic}/status", f"{topic}/raw/hall/x", state]


def test_the_settings_file_of_the_page_is_valid(tmp_path: Path) -> None:
    """Its file of bind keys is looked for beside it."""
    (block,) = blocks(find_page("decode.md"), "yaml")
    config = tmp_path / "mqttkit.yaml"
    config.write_text(block)
    settings = load_settings(str(config), environ={}, flags={}, profile={}).settings.decode
    assert settings == DecodeSettings(
        gateway_status="ble/{scanner_id}/status", away_after=600, keys_file=str(tmp_path / "bind-keys")
    )


@pytest.mark.parametrize(("section", "complaint"), [
    ("away_after: 0", "mqttkit.yaml:2: decode.away_after: must be more than 0, got '0'"),
    ("state: ble/{mac}", "decode.state"),
    ("prefixes: ha", "decode.prefixes"),
    ("keys_file: bind-keys", "cannot read bind keys {directory}/bind-keys"),
])  # fmt: skip
def test_a_wrong_setting_names_the_line(section: str, complaint: str, tmp_path: Path) -> None:
    """Like every other section; a file name is relative to the settings file."""
    config = tmp_path / "mqttkit.yaml"
    config.write_text(f"decode:\n  {section}\n")
    done = subprocess.run([*COMMAND, "--config", str(config)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert complaint.format(directory=tmp_path) in done.stderr


def test_a_hostile_name_cannot_steer_the_terminal(shared_broker: TestBroker, topic: str) -> None:
    """In the list of silent devices, whose states anyone may have published."""
    state = {"mac_address": BEACON["mac_address"], "name": "Ro\x1b[2Jom", "last_seen": "2026-01-11T10:30:45.123Z"}
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=10)
        client.publish(f"{topic}/state/x", json.dumps(state), qos=1, retain=True).result(10)
    flags = ["-p", str(shared_broker.port), "--state", f"{topic}/state/{{mac_address}}", "--remove-silent", "1"]
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.isprintable()
    assert line.endswith("Ro\ufffd[2Jom")


@pytest.mark.parametrize("days", ["-3", "0", "nan"])
def test_every_device_is_not_silent_for_so_many_days(days: str) -> None:
    """A mistyped number must not remove devices that are heard now."""
    done = subprocess.run([*COMMAND, "--remove-silent", days, "--yes"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--remove-silent" in done.stderr
