"""`make bench-peers` runs every client, and a client that fails has no figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.bench.own_broker import own_broker
from mqttkit.errors import MqttkitError
from tests.benchmarks.peers.rounds import measure
from tests.benchmarks.peers.runners import Bench
from tests.support.brokers import need

pytestmark = pytest.mark.system


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Bench]:
    """A bench that uses the libraries of this environment."""
    for program in ("mosquitto", "mosquitto_pub", "mosquitto_sub"):
        need(program)
    with own_broker("sys_interval 1") as broker:
        yield Bench(sys.executable, broker, tmp_path, 100)


@pytest.mark.parametrize("client", ["mqttkit", "paho", "paho wide", "mosquitto"])
@pytest.mark.parametrize(("role", "qos"), [("pub", 0), ("pub", 1), ("sub", 0), ("sub", 1)])
def test_each_client_does_the_whole_task(peers: Bench, client: str, role: str, qos: int) -> None:
    """And has time, CPU time and memory of all its messages."""
    measured = peers.job(client, role, qos, 2_000)()
    assert measured.count == 2_000
    assert 0 < measured.seconds < 50
    assert 0 < measured.cpu < 50
    assert measured.memory >= 0


@pytest.mark.parametrize("client", ["mqttkit", "mosquitto"])
def test_commands_end_with_their_work(peers: Bench, client: str, tmp_path: Path) -> None:
    """`pub -l` and `sub -C`; `sub` receives exactly the messages that were published."""
    assert peers.command_pub(client, 500)().seconds > 0
    assert peers.command_sub(client, 500)().seconds > 0
    assert (tmp_path / "received").read_bytes() == (b"x" * 100 + b"\n") * 500


def test_client_that_is_not_installed_is_reported_and_the_others_are_measured(peers: Bench) -> None:
    """It has no figure."""
    with pytest.raises(MqttkitError):
        peers.job("gmqtt", "pub", 0, 10)()
    said: list[str] = []
    medians = measure(peers, 1, 0.0001, said.append)
    assert ("gmqtt", "pub 0") not in medians
    assert any("gmqtt" in line for line in said)
    assert medians["mqttkit", "pub 0"].rounds == 1
