"""The figures of a broker's life: start, accounts and backup, measured with real brokers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import lifecycle
from tests.support.brokers import need
from tests.support.pages import ROOT

IDLE = """
import json
from tests.benchmarks.idle_clients import measure_idle_clients
print(json.dumps([(figure.value, figure.met) for figure in measure_idle_clients(20)]))
"""


def test_each_step_of_a_brokers_life_has_a_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every time is above zero; a backend that cannot start has its reason in place of a time."""
    need("mosquitto")
    monkeypatch.setattr(lifecycle, "RETAINED", 200)
    monkeypatch.setattr(lifecycle, "ROUNDS", 1)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    figures = {figure.name: figure for figure in lifecycle.measure_lifecycle()}
    docker = figures.pop("broker up, docker backend")
    assert (docker.value, docker.met) == (0.0, None)
    assert docker.detail.startswith("not measured: no Docker engine answers")
    assert {"broker up, process backend", "user add to first login", "verification of that backup"} <= set(figures)
    assert all(figure.value > 0 for figure in figures.values())


def test_each_idle_client_has_one_thread() -> None:
    """Memory, growth and threads of each client are figures; no connection is lost.

    They are measured in a process of their own: in this one, threads and memory of other tests come and go.
    """
    need("mosquitto")
    measured = subprocess.run([sys.executable, "-c", IDLE], cwd=ROOT, capture_output=True, check=True, timeout=120)
    lost, (memory, _), (growth, _), threads = json.loads(measured.stdout)
    assert (lost, threads) == ([0, True], [1, True])
    assert 0 < memory < 1024
    assert growth >= 0
