"""Sensors and a gateway around a broker in a container, through the Docker SDK; nothing is left after."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from mqttkit.broker import BrokerPaths, BrokerSpec
from mqttkit.broker.backends.docker.backend import DockerBroker
from mqttkit.broker.profile import locked
from mqttkit.nodes import GatewayNode, Runner, Scenario, SensorFleet
from mqttkit.settings import MqttSettings
from tests.support.docker import IMAGE, leftovers

pytestmark = pytest.mark.system


def test_the_gateway_receives_every_reading_through_a_container_that_is_gone_after(
    docker_host: str, tmp_path: Path
) -> None:
    """Mosquitto in a container, 20 sensors, one gateway: every reading arrives, and the engine is as it was."""
    import docker

    client = docker.DockerClient(base_url=docker_host, timeout=60)
    before = leftovers(client)
    name = f"t{uuid.uuid4().hex[:8]}"
    paths = BrokerPaths(tmp_path / "brokers" / name)
    broker = DockerBroker(BrokerSpec(name=name, backend="docker", port=0, image=IMAGE), paths)
    try:
        with locked(paths):
            profile = broker.up().profile
        assert client.containers.get(f"mqttkit-{name}").status == "running"
        mqtt = MqttSettings(broker=profile.to_broker_settings())
        scenario = Scenario(seed=1, duration=10.0, fleets=(SensorFleet(count=20, rate=5.0),))
        with GatewayNode("gateway", mqtt) as gateway:
            totals = Runner(scenario, mqtt, paced=False).run()
            assert gateway.wait_for(totals.sent, 30)
            rows = gateway.rows()
        assert totals.good
        assert totals.sent == sum(row["count"] for row in rows) >= 990
        assert {(row["missing"], row["duplicates"]) for row in rows} == {(0, 0)}
    finally:
        with locked(paths):
            broker.down(volumes=True)
        after = leftovers(client)
        client.close()
    assert after == before
