"""Faults of the sink: rows 7 to 10 and 22 of the fault table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from tests.support.bridges import (
    BridgeProcess,
    body,
    bridged,
    metric_topic,
    new_tenant,
    publish_numbers,
    rows,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import missing
from tests.support.line_servers import influx_server
from tests.support.redis import redis_server

pytestmark = pytest.mark.system
STREAM = "mqttkit:metrics"
QUICK = {"MQTTKIT_BRIDGE_SINK_TIMEOUT": "1"}


def resident(process: BridgeProcess) -> int:
    """Resident memory in bytes."""
    assert process.process is not None
    pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_fault_7_sink_down(tmp_path: Path) -> None:
    """Redis gone under load: memory flat, still connected, not ready, nothing lost, catches up when it is back."""
    total = 12_000
    with (
        redis_server(tmp_path / "redis") as redis,
        bridged(tmp_path, sink=redis.url, environment=QUICK) as (_, process, client),
    ):
        publish_numbers(client, range(2_000))
        wait_until(lambda: process.acknowledged >= 2_000)
        before = resident(process)
        redis.stop()
        publish_numbers(client, range(2_000, total))
        wait_until(lambda: process.not_ready_because("redis://"))
        wait_until(lambda: process.number("in_flight_messages") == 1_000, what="a full receive window")
        assert process.number("connected") == 1
        assert process.number("connects_total") == 1
        assert resident(process) - before < 15_000_000
        redis.start()
        began = time.monotonic()
        wait_until(process.is_ready)
        with redis.client() as reader:
            wait_until(lambda: reader.xlen(STREAM) == total)
            print(f"caught up in {time.monotonic() - began:.1f} s")
            values = [int(float(fields["value"])) for _, fields in reader.xrange(STREAM)]
        assert sorted(values) == list(range(total))
        process.finish()


def test_fault_8_sink_hangs(tmp_path: Path) -> None:
    """Redis stopped with SIGSTOP in mid-stream: as when down, and nothing is written twice, dedupe_id or not."""
    total = 4_000
    with (
        redis_server(tmp_path / "redis") as redis,
        bridged(tmp_path, sink=redis.url, environment=QUICK) as (_, process, client),
    ):
        for round_ in range(2):
            redis.send(signal.SIGSTOP)
            for number in range(total * round_ // 2, total * (round_ + 1) // 2):
                payload = b'{"value":%d}' % number if number % 2 else body(number)
                client.publish(metric_topic(), payload, qos=1, wait=20)
            assert client.flush(20)
            retries = process.number("commit_retries_total")
            wait_until(lambda: process.number("commit_retries_total") >= retries + 2)  # noqa: B023
            assert process.not_ready_because("redis://")
            assert process.number("connects_total") == 1
            redis.send(signal.SIGCONT)
            wait_until(process.is_ready)
        with redis.client() as reader:
            wait_until(lambda: reader.xlen(STREAM) >= total)
            wait_until(lambda: process.number("in_flight_messages") == 0)
            values = [int(float(fields["value"])) for _, fields in reader.xrange(STREAM)]
        assert sorted(values) == list(range(total))
        process.finish()


def test_fault_7_and_8_line_protocol(tmp_path: Path) -> None:
    """InfluxDB stopped with SIGSTOP, then killed: not ready, nothing acknowledged; it gets every metric once."""
    total = 3_000
    with influx_server(tmp_path / "influx") as influx:
        address = influx.address("metrics")
        with bridged(tmp_path, sink=address, environment=QUICK) as (_, process, client):
            publish_numbers(client, range(total // 3))
            wait_until(lambda: process.acknowledged >= total // 3)
            influx.send(signal.SIGSTOP)
            publish_numbers(client, range(total // 3, total * 2 // 3))
            wait_until(lambda: process.not_ready_because("influx://"))
            influx.stop(signal.SIGKILL)
            publish_numbers(client, range(total * 2 // 3, total))
            assert process.acknowledged == total // 3
            influx.start()
            wait_until(lambda: process.acknowledged == total)
            process.finish()
        values = [value for _, value in influx.query("SELECT value FROM temperature", "metrics")]
        assert sorted(values) == list(range(total))


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory."""
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(directory)], capture_output=True)
    if mounted.returncode:
        missing(f"no right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Fill a file system; return the file that takes the room."""
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4_096)
    return filler


def test_fault_9_disk_full(tmp_path: Path) -> None:
    """No room: nothing acknowledged, not ready; once there is room the bridge continues, and nothing is lost."""
    total = 3_000
    with (
        small_disk(tmp_path / "disk") as disk,
        bridged(tmp_path, sink=f"sqlite:{disk}/metrics.db") as (_, process, client),
    ):
        filler = fill(disk)
        publish_numbers(client, range(total))
        wait_until(lambda: process.not_ready_because("full"))
        assert "Free space" in process.log
        stored = rows(disk / "metrics.db")[0][0]
        assert process.acknowledged == stored < total
        filler.unlink()
        wait_until(process.is_ready)
        wait_until(lambda: rows(disk / "metrics.db") == [(total,)])
        process.finish()
        assert stored_numbers(disk / "metrics.db") == list(range(total))


def test_fault_9_disk_full_of_lines(tmp_path: Path) -> None:
    """The same with JSONL, and with a crash of the bridge while the disk is full: no line is torn or doubled."""
    total = 3_000
    with (
        small_disk(tmp_path / "disk") as disk,
        bridged(tmp_path, sink=f"jsonl:{disk}/metrics.jsonl") as (_, process, client),
    ):
        filler = fill(disk)
        publish_numbers(client, range(total))
        wait_until(lambda: process.not_ready_because("metrics.jsonl"))
        assert "Free space" in process.log
        assert process.acknowledged < total
        process.kill()
        process.start(ready=False)
        wait_until(lambda: process.not_ready_because("metrics.jsonl"))
        filler.unlink()
        wait_until(process.is_ready)
        wait_until(lambda: (disk / "metrics.jsonl").read_bytes().count(b"\n") == total)
        process.finish()
        lines = (disk / "metrics.jsonl").read_text().splitlines()
    assert sorted(int(json.loads(line)["value"]) for line in lines) == list(range(total))


@pytest.mark.parametrize("sink", ["sqlite:{}/metrics.db", "jsonl:{}/metrics.jsonl"])
def test_fault_9_disk_full_of_dead_letters(tmp_path: Path, sink: str) -> None:
    """No dead letter is acknowledged before it is stored; each is there once there is room."""
    total = 300
    with (
        small_disk(tmp_path / "disk") as disk,
        bridged(tmp_path, sink=sink.format(disk)) as (_, process, client),
    ):
        filler = fill(disk)
        for number in range(total):
            client.publish(metric_topic(), b"[%d" % number + b" " * 4_000, qos=1, wait=20)
        assert client.flush(60)
        wait_until(lambda: process.not_ready_because("full"))
        assert "Free space" in process.log
        assert process.acknowledged < total
        filler.unlink()
        wait_until(lambda: process.number('dead_letters_total{reason="json_syntax"}') == total)
        assert process.finish()[3] == total
        (database,) = disk.glob("*.db")
        assert rows(database, "SELECT count(DISTINCT sha256), count(*) FROM dead_letters") == [(total, total)]


def test_fault_10_sqlite_locked(tmp_path: Path) -> None:
    """Another writer holds the file: tried again as long as it is busy, and acknowledged only then."""
    with (
        bridged(tmp_path) as (_, process, client),
        contextlib.closing(sqlite3.connect(process.database, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        publish_numbers(client, range(300))
        wait_until(lambda: process.not_ready_because("locked"))
        assert process.acknowledged == 0
        other.execute("ROLLBACK")
        wait_until(lambda: rows(process.database) == [(300,)])
        wait_until(process.is_ready)
        process.finish()


def test_fault_10_sqlite_corrupt(tmp_path: Path) -> None:
    """A damaged file stops the bridge loudly; nothing was acknowledged, so a good file gets everything."""
    with bridged(tmp_path) as (_, process, client):
        publish_numbers(client, range(2_000))
        wait_until(lambda: rows(process.database) == [(2_000,)])
        assert process.stop() == 0
        damaged = bytearray(process.database.read_bytes())
        damaged[4_096:] = b"\xa5" * (len(damaged) - 4_096)
        process.database.write_bytes(damaged)
        publish_numbers(client, range(2_000, 2_500))
        process.start(ready=False)
        assert process.process is not None
        assert process.process.wait(60) == 1
        assert "malformed" in process.log
        assert ".recover" in process.log
        process.database.rename(tmp_path / "damaged.db")
        process.start()
        wait_until(lambda: rows(process.database) == [(500,)])
        process.finish()
        assert stored_numbers(process.database) == list(range(2_000, 2_500))


def values_of(path: Path) -> list[int]:
    """The numbers in a file of either sink."""
    if path.suffix == ".db":
        return stored_numbers(path)
    return sorted(int(json.loads(line)["value"]) for line in path.read_text().splitlines())


@pytest.mark.parametrize("suffix", ["jsonl", "db"])
def test_file_that_is_moved_under_load_loses_nothing(tmp_path: Path, suffix: str) -> None:
    """Each metric is in the moved file or in the new one."""
    total = 4_000
    path, moved = tmp_path / f"metrics.{suffix}", tmp_path / f"moved.{suffix}"
    sink = f"jsonl:{path}" if suffix == "jsonl" else f"sqlite:{path}"
    with bridged(tmp_path, sink=sink) as (_, process, client):
        publish_numbers(client, range(total // 4))
        wait_until(lambda: process.acknowledged > 0)
        for number in range(total // 4, total):
            client.publish(metric_topic(), body(number), qos=1, wait=20)
            if number == total // 2:
                path.rename(moved)
        assert client.flush(60)
        wait_until(lambda: process.acknowledged == total)
        process.finish()
    before, after = values_of(moved), values_of(path)
    assert before
    assert after
    assert sorted({*before, *after}) == list(range(total))
    assert len(after) == len(set(after))
    assert suffix == "db" or len(before) + len(after) == total


def test_fault_22_dead_letter_store_full(tmp_path: Path) -> None:
    """At its limit nothing more is acknowledged, and the bridge says so; a purge sets it going again."""
    environment = {"MQTTKIT_BRIDGE_DEAD_LETTER_LIMIT": "50"}
    with bridged(tmp_path, environment=environment) as (_, process, client):
        for number in range(80):
            client.publish(metric_topic(), b"[", qos=1, wait=20)
            if number == 49:
                wait_until(lambda: process.number('dead_letters_total{reason="json_syntax"}') == 50)
        assert client.flush(20)
        publish_numbers(client, range(10))
        wait_until(lambda: process.not_ready_because("dead letters"))
        assert "dead-letters purge" in process.log
        assert process.acknowledged == 50
        words = ["bridge", "dead-letters", "purge", "--all", "--sink", f"sqlite:{process.database}"]
        assert CliRunner().invoke(cli, words).exit_code == 0
        wait_until(process.is_ready)
        wait_until(lambda: rows(process.database) == [(10,)])
        assert process.finish()[3] == 80


def test_fault_22_one_bad_device_does_not_block_the_others(tmp_path: Path) -> None:
    """Its letters above the quota are counted and dropped, so the store never reaches its limit."""
    environment = {
        "MQTTKIT_BRIDGE_DEAD_LETTER_LIMIT": "50",
        "MQTTKIT_BRIDGE_DEAD_LETTER_QUOTA": "20",
        "MQTTKIT_BRIDGE_DEAD_LETTER_OVERFLOW": "drop",
    }
    with bridged(tmp_path, environment=environment) as (_, process, client):
        for _ in range(200):
            client.publish(metric_topic(), b"[", qos=1, wait=20)
        client.publish(metric_topic(new_tenant()), body(1), qos=1, wait=20)
        publish_numbers(client, range(10))
        wait_until(lambda: rows(process.database) == [(10,)])
        wait_until(process.is_ready)
        letters = "SELECT reason, count(*) FROM dead_letters GROUP BY 1 ORDER BY 1"
        assert rows(process.database, letters) == [("json_syntax", 20), ("tenant_unknown", 1)]
        assert process.number("dropped_letters_total") == 180
        process.finish()
