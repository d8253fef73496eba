"""Results as JSON, for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqttkit.bridge.identity import Identity
from tests.support.commands import invoke
from tests.support.pages import ROOT


def test_tenants_are_objects() -> None:
    """One for each tenant, with its name."""
    done = invoke("bridge", "tenant", "list", "--json", "--tenants", str(ROOT / "examples" / "bridge" / "tenants.yaml"))
    assert json.loads(done.stdout) == {
        "tenant_id": "6f1d7c1e-0000-4000-8000-000000000001",
        "name": "Example tenant",
    }


def test_sessions_are_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State, broker, filter and sink have names."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Identity("localhost", "metrics/#", "sqlite:metrics.db") as identity:
        (line,) = invoke("bridge", "sessions", "list", "--json").stdout.splitlines()
        assert json.loads(line) == {
            "client_id": identity.client_id,
            "state": "running",
            "broker": "localhost",
            "filter": "metrics/#",
            "sink": "sqlite:metrics.db",
        }
