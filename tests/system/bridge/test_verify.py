"""`mqttkit bridge verify`: the proof on the user's own set-up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from tests.support.bridges import QUEUE_WITHOUT_LIMIT, TENANT
from tests.support.brokers import mosquitto
from tests.support.redis import redis_server

pytestmark = pytest.mark.system


def verify(port: int, sink: str, tmp_path: Path, *more: str) -> tuple[int, dict[str, int]]:
    known = tmp_path / "tenants.yaml"
    known.write_text(f"- {TENANT}\n")
    words = ["bridge", "verify", "-h", "127.0.0.1", "-p", str(port), "--sink", sink, "--tenants", str(known), *more]
    result = CliRunner().invoke(cli, words)
    found = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)(?= )", result.output)}
    return result.exit_code, found


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_proof_passes_where_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    """Killed three times, all metrics are there once; the proof's session does not stay with the broker."""
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        redis_server(tmp_path / "redis") as redis,
    ):
        sink = redis.url if kind == "redis" else f"sqlite:{tmp_path / 'm.db'}"
        code, found = verify(broker.port, sink, tmp_path, "--count", "6000", "--kill", "3")
        assert found["published"] == found["stored"] == 6_000
        assert (found["lost"], found["twice"], found["kills"], code) == (0, 0, 3, 0)


def test_proof_fails_where_the_broker_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short broker queue metrics are lost while the bridge is dead: counted, exit code 1."""
    monkeypatch.setattr("mqttkit.bridge.verify.STALL_SECONDS", 2.0)
    with mosquitto(tmp_path / "mosquitto", "max_queued_messages 50") as broker:
        code, found = verify(broker.port, f"sqlite:{tmp_path / 'm.db'}", tmp_path, "--count", "8000", "--kill", "2")
        assert found["lost"] == 8_000 - found["stored"] > 0
        assert code == 1
