"""A member of a group that leaves takes its messages along and gets no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    BridgeProcess,
    bridge,
    publish_numbers,
    publisher,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import mosquitto

pytestmark = pytest.mark.system


def leave(process: BridgeProcess, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mqttkit", "bridge", "leave", "-h", process.host, "-p", str(process.port)]
    command += ["--sink", f"sqlite:{process.database}", "--tenants", process.tenants, *process.options, *options]
    environment = {**os.environ, **process.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_member_that_leaves_at_its_stop_gets_no_share_any_more(tmp_path: Path) -> None:
    """With --leave-on-stop every message published afterwards goes to the other member."""
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(tmp_path / "one", broker.port, "--group", "g") as stays,
        bridge(tmp_path / "two", broker.port, "--group", "g", "--leave-on-stop") as leaves,
        publisher(broker.port) as client,
    ):
        publish_numbers(client, range(1_000))
        wait_until(lambda: len(stored_numbers(stays.database)) + len(stored_numbers(leaves.database)) == 1_000)
        assert leaves.finish()[4] == 0
        assert "left: the broker has no session" in leaves.log
        publish_numbers(client, range(1_000, 2_000))
        wait_until(lambda: set(range(1_000, 2_000)) <= set(stored_numbers(stays.database)))
        stored = sorted(stored_numbers(stays.database) + stored_numbers(leaves.database))
        assert stored == list(range(2_000))


def test_leave_commits_the_share_of_a_dead_member(tmp_path: Path) -> None:
    """`bridge leave` stores what the broker has queued for it, and later messages go to the others."""
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(tmp_path / "one", broker.port, "--group", "g") as stays,
        bridge(tmp_path / "two", broker.port, "--group", "g") as dies,
        publisher(broker.port) as client,
    ):
        publish_numbers(client, range(100))
        wait_until(lambda: len(stored_numbers(stays.database)) + len(stored_numbers(dies.database)) == 100)
        dies.kill()
        publish_numbers(client, range(100, 1_100))
        result = leave(dies)
        assert result.returncode == 0, result.stderr
        assert "left: the broker has no session" in result.stderr
        publish_numbers(client, range(1_100, 2_000))
        total = list(range(2_000))
        wait_until(lambda: sorted(stored_numbers(stays.database) + stored_numbers(dies.database)) == total)
        share = [number for number in stored_numbers(dies.database) if number >= 100]
        assert share
        assert max(share) < 1_100
