"""Faults of the bridge's own process: rows 1 and 2 of the fault table."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from tests.support.bridges import bridged, publish_numbers, rows, stored_numbers, wait_until

pytestmark = pytest.mark.system


def test_fault_1_killed_eight_times_in_mid_batch(tmp_path: Path) -> None:
    """SIGKILL eight times under load: every metric is stored, none twice."""
    total, kills = 24_000, 8
    with bridged(tmp_path) as (_, process, client):
        done = threading.Event()

        def publish() -> None:
            for start in range(0, total, 500):
                publish_numbers(client, range(start, start + 500))
            done.set()

        thread = threading.Thread(target=publish)
        thread.start()
        for kill in range(kills):
            floor = total * kill // (kills * 2)
            wait_until(lambda: rows(process.database)[0][0] > floor, what="rows to come")  # noqa: B023
            process.kill()
            process.start(ready=False)
        thread.join(60)
        assert done.is_set()
        wait_until(lambda: rows(process.database) == [(total,)], what="all rows")
        process.finish()
        assert stored_numbers(process.database) == list(range(total))


def test_fault_2_sigterm_under_load_drains_and_disconnects(tmp_path: Path) -> None:
    """SIGTERM: within 10 s all that was taken is committed and acknowledged, DISCONNECT sent, exit code 0."""
    total = 10_000
    with bridged(tmp_path) as (broker, process, client):
        thread = threading.Thread(target=publish_numbers, args=(client, range(total)))
        thread.start()
        wait_until(lambda: rows(process.database)[0][0] > 500)
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 10
        received, _, _, _, waiting = process.check_books()
        assert waiting == 0
        assert f"acknowledged={received} stale=0" in process.log
        thread.join(60)
        assert "Received DISCONNECT from mqttkit-bridge" in broker.log
        process.start()
        wait_until(lambda: rows(process.database) == [(total,)])
        assert stored_numbers(process.database) == list(range(total))


def test_fault_2_second_signal_ends_at_once(tmp_path: Path) -> None:
    """While it drains into a sink that is locked, a second SIGTERM ends the bridge immediately with 130."""
    with bridged(tmp_path) as (_, process, client):
        with contextlib.closing(sqlite3.connect(process.database, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            publish_numbers(client, range(100))
            wait_until(lambda: process.number("in_flight_messages") == 100)
            assert process.process is not None
            process.process.send_signal(signal.SIGTERM)
            wait_until(lambda: process.not_ready_because("stopping"))
            process.process.send_signal(signal.SIGTERM)
            assert process.process.wait(60) == 130  # one that drains to the end of its time ends with 1
            lock.execute("ROLLBACK")
        process.start()
        wait_until(lambda: rows(process.database) == [(100,)])
