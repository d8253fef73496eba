"""Containers as nodes: a broker from containers/mqtt-broker, sensor and gateway as real clients, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mqttkit.broker.backends.docker.engine import connect_engine
from mqttkit.broker.lifecycle import run_temporary
from mqttkit.errors import LifecycleError, MissingPart
from mqttkit.nodes.container import LABEL, DockerNode, NodeSpec, build_image, docker_network, remove_orphans
from tests.support.brokers import need
from tests.support.clients import wait_until
from tests.support.docker import IMAGE
from tests.support.probe import Probe

pytestmark = pytest.mark.system
CONTAINERS = Path(__file__).parents[3] / "containers"
BROKER = "mqttkit/mqtt-broker:test"


@pytest.fixture
def broker_image(client: Any) -> Iterator[str]:
    """The image of containers/mqtt-broker on the offline base."""
    build_image(CONTAINERS / "mqtt-broker", BROKER, arguments={"BASE": IMAGE})
    yield BROKER
    client.images.remove(BROKER)


def test_sensors_reach_a_gateway_through_a_broker_in_a_container(broker_image: str) -> None:
    """The Dockerfile's broker listens on 1883, and what one client publishes another receives."""
    with DockerNode(NodeSpec(image=broker_image, ports=(1883,))) as node:
        node.wait_for_broker()
        with Probe(node.port(1883)) as gateway, Probe(node.port(1883)) as sensor:
            gateway.subscribe("sensor/#")
            for number in range(20):
                assert sensor.publish(f"sensor/{number}", b"21.5") == 0
            assert {message.topic for message in gateway.wait_for_messages(20)} == {f"sensor/{n}" for n in range(20)}
        assert "running" in node.logs()
        assert node.broker_settings().port == node.port(1883)
        wait_until(lambda: node.run("id", "-u") == ("0", 0))  # Docker 20.10 may lose the output of a quick command


def test_nodes_meet_on_a_network_of_their_own(broker_image: str) -> None:
    """By name, on a network that reaches nothing outside."""
    with docker_network() as network:
        broker = DockerNode(NodeSpec(image=broker_image, name="broker-of-the-test", network=network))
        command = ("mosquitto_pub", "-h", "broker-of-the-test", "-t", "sensor/a", "-m", "x", "-q", "1", "--repeat", "3")
        with broker, DockerNode(NodeSpec(image=IMAGE, command=("sleep", "60"), network=network)) as sensor:
            broker.wait_until(lambda: "running" in broker.logs())
            assert sensor.run(*command) == ("", 0)


def test_files_and_environment_are_there_at_the_start(client: Any) -> None:
    """A file put in before the start is what the broker reads."""
    conf = b"listener 1884\nallow_anonymous true\n"
    spec = NodeSpec(
        image=IMAGE, ports=(1884,), files={"/mosquitto/config/mosquitto.conf": conf}, environment={"NODE": "seven"}
    )
    with DockerNode(spec) as node:
        node.wait_for_broker(1884)
        assert node.run("sh", "-c", "echo $NODE")[0] == "seven"
        with pytest.raises(LifecycleError, match="not published"):
            node.port(1883)


def test_a_node_that_ends_says_its_last_words(client: Any) -> None:
    """A broker that cannot start: the error names exit code and log, and nothing is left."""
    spec = NodeSpec(image=IMAGE, ports=(1883,), files={"/mosquitto/config/mosquitto.conf": b"nonsense\n"})
    with DockerNode(spec) as node, pytest.raises(LifecycleError, match=r"exit code 3: .*Unknown configuration"):
        node.wait_for_broker()


def test_whatever_fails_leaves_nothing(client: Any, tmp_path: Path) -> None:
    """A missing image, a taken name, a directory that is not there, no Dockerfile, one that cannot build."""
    with pytest.raises(MissingPart, match="no-such-image"):
        DockerNode(NodeSpec(image="mqttkit/no-such-image:1")).start()
    with pytest.raises(LifecycleError):
        DockerNode(NodeSpec(image=IMAGE, files={"/no/such/place/file": b""})).start()
    with DockerNode(NodeSpec(image=IMAGE, name="taken-by-the-test", command=("sleep", "60"))) as first:
        with pytest.raises(LifecycleError, match="taken-by-the-test"):
            DockerNode(NodeSpec(image=IMAGE, name="taken-by-the-test")).start()
        with pytest.raises(LifecycleError, match="already running"):
            first.start()
    first.stop()
    with pytest.raises(LifecycleError, match="is not running"):
        first.logs()
    with pytest.raises(LifecycleError, match="no Dockerfile"):
        build_image(tmp_path, "mqttkit/none:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN no-such-command\n")
    with pytest.raises(LifecycleError, match="cannot build"):
        build_image(tmp_path, "mqttkit/none:1")


def test_the_next_node_removes_what_a_killed_simulation_left(client: Any) -> None:
    """SIGKILL leaves the container; the next node removes it, and leaves those of living makers."""
    script = (
        "import os, signal, sys\n"
        "from mqttkit.nodes.container import DockerNode, NodeSpec\n"
        "DockerNode(NodeSpec(image=sys.argv[1], name='orphan-of-the-test', command=('sleep', '60'))).start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, IMAGE], env=os.environ, check=False)
    assert done.returncode == -9
    assert client.containers.get("orphan-of-the-test").labels[LABEL]
    with ThreadPoolExecutor(4) as pool:  # as simulations that start at the same time
        list(pool.map(lambda _: _removed(), range(4)))
    with DockerNode(NodeSpec(image=IMAGE, command=("sleep", "60"))) as node, connect_engine() as client_of_engine:
        assert remove_orphans(client_of_engine) == 0
        names = {container.name for container in client.containers.list(all=True)}
        assert node.name in names
        assert "orphan-of-the-test" not in names


def _removed() -> int:
    with connect_engine() as client_of_engine:
        return remove_orphans(client_of_engine)


def test_a_node_whose_container_was_removed_stops_without_an_error(client: Any) -> None:
    node = DockerNode(NodeSpec(image=IMAGE, command=("sleep", "60")))
    node.start()
    client.containers.get(node.name).remove(force=True, v=True)
    with pytest.raises(LifecycleError, match="No such container"):
        node.logs()
    node.stop()
    node.stop()


def test_the_node_of_a_live_maker_in_another_pid_namespace_stays(client: Any) -> None:
    """As a maker in a container: from here its process is not visible, and its number may be another's."""
    script = (
        "from mqttkit.nodes.container import DockerNode, NodeSpec\n"
        f"with DockerNode(NodeSpec(image={IMAGE!r}, command=('sleep', '60'))) as node:\n"
        "    print(node.name, flush=True)\n"
        "    input()\n"
    )
    command = [need("unshare"), "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        try:
            assert maker.stdout is not None
            name = maker.stdout.readline().strip()
            with connect_engine() as engine:
                assert remove_orphans(engine) == 0
            assert client.containers.get(name).status == "running"
        finally:
            maker.communicate("\n", timeout=60)


def test_a_node_of_an_earlier_boot_is_removed(client: Any) -> None:
    """Its maker has ended with that boot; the engine kept the container."""
    boot = "00000000-0000-0000-0000-000000000000"
    client.containers.create(IMAGE, labels={LABEL: f"{boot}:1:1:1"})
    with connect_engine() as engine:
        assert remove_orphans(engine) == 1


def test_an_image_alone_selects_docker_and_needs_no_registry(client: Any) -> None:
    """The default image is not looked for."""
    with run_temporary(image=IMAGE) as (broker, profile):
        assert broker.backend == "docker"
        assert profile.image is not None and profile.image.startswith(IMAGE)
