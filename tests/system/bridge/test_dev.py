"""`mqttkit bridge dev`: broker and bridge together."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.cli.bridge.dev import EXAMPLE_TENANT
from tests.support.bridges import rows, wait_until
from tests.support.brokers import free_port

pytestmark = pytest.mark.system


@contextlib.contextmanager
def dev(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command in a directory; yield it with the command that it suggests."""
    command = [sys.executable, "-m", "mqttkit", "bridge", "dev", *options]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("  mqttkit pub "), (lines, process.stderr and process.stderr.read())
        yield process, lines[2]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("backend", ["process", "embedded"])
def test_dev_stores_what_the_suggested_command_publishes(tmp_path: Path, backend: str) -> None:
    """Ctrl-C drains the bridge and removes the broker; the metrics stay in metrics.db."""
    with dev(tmp_path, "--backend", backend) as (process, suggested):
        wait_until((tmp_path / "metrics.db").exists)
        words = [sys.executable, "-m", *shlex.split(suggested)]
        wait_until(lambda: _publish(words) and rows(tmp_path / "metrics.db") > [(0,)], what="a stored metric")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    found = rows(tmp_path / "metrics.db", "SELECT DISTINCT tenant_id, agent_id, metric_name, value FROM metrics")
    assert found == [(EXAMPLE_TENANT, "agent-1", "temperature", 21.5)]
    assert not _publish(words)


def test_dev_takes_port_sinks_and_tenants(tmp_path: Path) -> None:
    """As `bridge run` takes them."""
    port = free_port()
    (tmp_path / "known.yaml").write_text("- 6f1d7c1e-0000-4000-8000-00000000000a\n")
    options = (
        "--backend",
        "process",
        "-p",
        str(port),
        "--tenants",
        "known.yaml",
        *("--sink", "jsonl:m.jsonl", "--sink", "sqlite:m.db"),
    )
    with dev(tmp_path, *options) as (process, suggested):
        assert f"-p {port} " in suggested
        assert "metrics/6f1d7c1e-0000-4000-8000-00000000000a/agent-1/" in suggested
        wait_until(lambda: (tmp_path / "m.jsonl").exists() and (tmp_path / "m.db").exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _publish(words: list[str]) -> bool:
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
