"""The figures of a broker's life are measured with real brokers; what is not here is a note."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.bench.result import METRICS, as_text
from tests.benchmarks import lifecycle
from tests.support.brokers import need


def test_a_life_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Times of `up`, of a new user's login and of a backup, each above nothing; without an engine a note says so."""
    need("mosquitto")
    monkeypatch.setattr(lifecycle, "RETAINED", 200)
    monkeypatch.setattr(lifecycle, "ROUNDS", 1)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    result = lifecycle.run_lifecycle()
    assert {"up_process", "user_login", "backup_create", "backup_verify"} <= set(result.metrics) <= set(METRICS)
    assert all(value > 0 for value in result.metrics.values())
    assert any("docker backend was not measured: no Docker engine answers" in note for note in result.notes)
    assert "user add to first login" in "\n".join(as_text(result))
