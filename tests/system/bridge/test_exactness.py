"""Each metric is stored once, whoever is killed: the short version of `make soak-bridge`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bridges import QUEUE_WITHOUT_LIMIT, bridge, publish_numbers, publisher, wait_until
from tests.support.brokers import mosquitto
from tests.support.soak import KINDS, soak
from tests.support.soak_sinks import soak_sink

pytestmark = pytest.mark.system


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_bridge_broker_and_sink_lose_and_double_nothing(kind: str, tmp_path: Path) -> None:
    """Bridge (SIGKILL), broker (SIGTERM) and sink (SIGKILL or a lock) are interrupted under load, each once."""
    result = soak(kind, tmp_path, count=6_000, kills=3, seed=KINDS.index(kind))
    assert result.exact, result
    assert set(result.kills.values()) == {1}


@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "http", "nats"])
def test_group_of_two_bridges_on_one_machine(kind: str, tmp_path: Path) -> None:
    """Each is killed in turn under load; what one has left without a commit, the other one removes or repeats."""
    total = 2_000
    ledger = ("--dead-letters", str(tmp_path / "ledger.db")) if kind in ("http", "nats") else ()
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        soak_sink(kind, tmp_path) as sink,
        bridge(tmp_path / "one", broker.port, "--group", "g", *ledger, sink=sink.address) as one,
        bridge(tmp_path / "two", broker.port, "--group", "g", *ledger, sink=sink.address) as two,
        publisher(broker.port) as client,
    ):
        for start, victim in zip((0, total // 2), (one, two), strict=True):
            publish_numbers(client, range(start, start + total // 2))
            victim.kill()
            victim.start(ready=False)
        wait_until(lambda: not sink.stored(total).count(0))
        assert sink.stored(total) == bytearray([1]) * total
