"""`mqttkit scan` as a process: signals, pipes, exit codes, a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

STREET = "replay:examples/captures/street-32-per-second.btsnoop"
COMMAND = [sys.executable, "-m", "mqttkit", "scan"]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit scan` to its end."""
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=60, **options)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `mqttkit scan`; kill what is left of it."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_json_lines_read_back_as_the_same_advertisements(tmp_path: Path) -> None:
    """What --json prints, replay reads and prints again, all but the time stamps."""
    first = run("--source", STREET, "--speed", "max", "--json")
    assert (first.returncode, first.stderr) == (0, "")
    path = tmp_path / "room.jsonl"
    path.write_text(first.stdout)
    second = run("--source", f"replay:{path}", "--speed", "max", "--json")
    one, other = ([json.loads(line) for line in result.stdout.splitlines()] for result in (first, second))
    assert len(one) == 412
    assert all(heard.pop("timestamp").endswith("Z") for heard in (*one, *other))
    assert one == other


def test_hostile_names_stay_whole_in_json_and_harmless_in_lines() -> None:
    """Each line of the capture comes through; control characters reach JSON escaped and lines not at all."""
    capture = "replay:examples/captures/adverts.jsonl"
    as_json = run("--source", capture, "--speed", "max", "--json").stdout
    names = [json.loads(line).get("local_name") for line in as_json.splitlines()]
    assert (len(names), "\x11" * 8 in names) == (728, True)
    as_lines = run("--source", capture, "--speed", "max").stdout
    assert len(as_lines.splitlines()) == 728
    assert all(line.isprintable() for line in as_lines.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_whole_lines(number: signal.Signals) -> None:
    """No traceback, nothing on stderr, the last line complete."""
    with running("--source", "simulated", "--rate", "2000", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(number)
        rest, error = process.stdout.read(), process.stderr.read()
        assert (process.wait(60), error) == (0, "")
    assert [json.loads(line)["rssi"] < 0 for line in (first + rest).splitlines()]
    assert rest == "" or rest.endswith("}\n")


def test_a_closed_pipe_ends_it_with_0() -> None:
    """As `| head -1` does."""
    with running("--source", "simulated") as process:
        assert process.stdout is not None and process.stderr is not None
        assert "dBm" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_lines_are_live_in_a_pipe() -> None:
    """A line comes when its advertisement does, not when a buffer is full."""
    begun = time.monotonic()
    with running("--source", "simulated", "--rate", "0.02") as process:
        assert process.stdout is not None
        assert "dBm" in process.stdout.readline()
    assert time.monotonic() - begun < 40


def test_duration_and_count_end_it() -> None:
    """By the clock, and to the advertisement."""
    begun = time.monotonic()
    result = run("--source", "simulated", "--rate", "100", "--duration", "0.5")
    assert result.returncode == 0
    assert time.monotonic() - begun >= 0.5
    assert 0 < len(result.stdout.splitlines()) <= 60
    result = run("--source", "simulated", "--rate", "10000", "--count", "123")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 123)


def test_what_is_filtered_is_counted_on_stderr() -> None:
    """Shown and not shown make up the recording."""
    result = run("--source", STREET, "--speed", "max", "--min-rssi", "-80", "--interval", "60", "--json")
    assert all(json.loads(line)["rssi"] >= -80 for line in result.stdout.splitlines())
    words = result.stderr.removeprefix("not shown: ").replace(",", "").split()
    assert {"min_rssi", "interval"} == set(words[::2])
    assert len(result.stdout.splitlines()) + sum(map(int, words[1::2])) == 412


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "replay:none.jsonl"], "cannot read recording none.jsonl: No such file or directory"),
        (["--source", "radio"], "scanner.source: must be auto, bleak, bluepy, simulated or replay:FILE"),
        (["--source", "simulated", "--speed", "fast"], "scanner.speed: must be"),
        (["--source", "simulated", "--company", "apple"], "scanner.company: must be two hex bytes"),
    ],
)
def test_wrong_usage_ends_it_with_2(arguments: list[str], message: str) -> None:
    """One line on stderr that names the setting, nothing on stdout."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_settings_come_from_the_file_and_flags_go_before_it(tmp_path: Path) -> None:
    """The scanner's section of mqttkit.yaml counts where no flag is given."""
    config = tmp_path / "mqttkit.yaml"
    config.write_text("scanner: {source: simulated, devices: 1, rate: 5000}\n")
    for flags, devices in (((), 1), (("--devices", "3"), 3)):
        result = run("--config", str(config), "--count", "100", "--json", *flags)
        assert len({json.loads(line)["mac_address"] for line in result.stdout.splitlines()}) == devices


def test_a_terminal_shows_a_table_until_a_signal() -> None:
    """With the devices' names; SIGINT ends it with 0 and the cursor is shown again."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--source", "simulated", "--rate", "200"],
        stdout=slave,
        stderr=slave,
        stdin=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
    ) as process:
        os.close(slave)
        shown = read_until(master, b"Sensor 0002")
        process.send_signal(signal.SIGINT)
        shown += read_until(master, None)
        assert process.wait(60) == 0
    os.close(master)
    assert b"10 devices" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"Traceback" not in shown


THERMOMETER = {"mac_address": "AA:BB:CC:DD:EE:FF", "service_data": {"feaa": "200000001480000000000a00000065"}}
"""Eddystone telemetry: 20.5 °C."""


def test_decode_shows_values_in_lines_and_json(tmp_path: Path) -> None:
    """A beacon is decoded without the extra."""
    recording = tmp_path / "room.jsonl"
    recording.write_text(f"{json.dumps(THERMOMETER)}\n")
    source = ("--source", f"replay:{recording}", "--speed", "max", "--decode")
    assert "temperature 20.5 °C" in run(*source).stdout
    assert json.loads(run(*source, "--json").stdout)["values"]["temperature"] == 20.5


def test_decode_shows_values_in_the_table(tmp_path: Path) -> None:
    """Instead of the service that carries them."""
    recording = tmp_path / "room.jsonl"
    recording.write_text(f"{json.dumps(THERMOMETER)}\n")
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--source", f"replay:{recording}", "--speed", "max", "--decode"],
        stdout=slave,
        stderr=slave,
        stdin=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "30"},
    ) as process:
        os.close(slave)
        shown = read_until(master, None)
        assert process.wait(60) == 0
    os.close(master)
    assert "temperature 20.5 °C".encode() in shown


def read_until(terminal: int, wanted: bytes | None) -> bytes:
    """Read until `wanted` is there, or to the end where it is None."""
    read = b""
    deadline = time.monotonic() + 30
    while wanted is None or wanted not in read:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], read
        try:
            read += os.read(terminal, 65536)
        except OSError:  # the other side of the terminal is closed
            assert wanted is None, read
            return read
    return read
