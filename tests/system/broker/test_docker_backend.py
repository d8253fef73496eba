"""The docker backend against a real engine: what it makes, what it refuses, what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.broker import BrokerPaths, BrokerSpec
from mqttkit.broker.backends import port_choice
from mqttkit.broker.backends.docker import engine
from mqttkit.broker.backends.docker.backend import DockerBroker
from mqttkit.broker.backends.docker.container_plan import HEALTH_COMMAND, ContainerPlan
from mqttkit.broker.backends.docker.engine import connect_engine, execute, run_in
from mqttkit.broker.probe import Login, ask, operator_login
from mqttkit.broker.profile import load_spec, locked, read_profile
from mqttkit.errors import LifecycleError, MissingPart, PortTaken, UsageError
from tests.support.brokers import free_port
from tests.support.docker import IMAGE, leftovers
from tests.support.probe import Probe, login

pytestmark = pytest.mark.system
NOT_AUTHORISED = 135

Make = Callable[..., DockerBroker]


@pytest.fixture
def make(client: Any, tmp_path: Path) -> Iterator[Make]:
    """A function that creates a broker with a unique name; all of them are removed at the end."""
    made: list[DockerBroker] = []

    def new(**given: Any) -> DockerBroker:
        values = {"name": f"t{uuid.uuid4().hex[:8]}", "port": 0, "image": IMAGE, **given}
        paths = BrokerPaths(tmp_path / "brokers" / values["name"])
        made.append(DockerBroker(BrokerSpec(backend="docker", **values), paths))
        return made[-1]

    yield new
    for broker in made:
        with locked(broker.paths):
            broker.down(volumes=True)


def up(broker: DockerBroker) -> Any:
    """Start it under its lock, and return the profile."""
    with locked(broker.paths):
        return broker.up().profile


def test_up_makes_a_secured_container_within_three_seconds(make: Make, client: Any) -> None:
    """Loopback only, users needed, not root, limited, restarted by the engine, data on a labelled volume."""
    broker = make()
    begin = time.monotonic()
    profile = up(broker)
    seconds = time.monotonic() - begin
    assert login(profile.port, profile.username, profile.password) == 0
    assert login(profile.port, None, None) == NOT_AUTHORISED
    assert login(profile.port, "guess", "guess") == NOT_AUTHORISED
    container = client.containers.get(f"mqttkit-{broker.spec.name}")
    host = container.attrs["HostConfig"]
    assert {entry["HostIp"] for ports in host["PortBindings"].values() for entry in ports} == {"127.0.0.1"}
    assert set(host["PortBindings"]) == {"1883/tcp", "9001/tcp"}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] == 512 << 20
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10_064, "Hard": 10_064}]
    assert host["CapDrop"] == ["ALL"]
    pid = container.attrs["State"]["Pid"]
    assert "Uid:\t1883\t1883\t1883\t1883" in Path(f"/proc/{pid}/status").read_text()
    assert client.volumes.get(f"mqttkit-{broker.spec.name}-data").attrs["Labels"]["org.mqttkit.broker"]
    assert profile.image.startswith(f"{IMAGE}@sha256:")
    assert profile.password not in json.dumps(container.attrs)
    assert profile.probe_password not in json.dumps(container.attrs)
    assert broker.version() >= (2, 0)
    assert seconds < 15, "3 s are the aim, with room for a busy machine"


def test_the_default_image_comes_up_where_a_registry_has_it(make: Make) -> None:
    """The pinned official image: secured, healthy, on the same contract as the offline one."""
    reason = DockerBroker.unusable()
    if reason:
        pytest.skip(reason)
    broker = make(image=None)
    profile = up(broker)
    assert profile.image.startswith("eclipse-mosquitto:2.0.")
    assert "@sha256:" in profile.image
    assert login(profile.port, profile.username, profile.password) == 0
    assert login(profile.port, None, None) == NOT_AUTHORISED
    assert broker.version() >= (2, 0, 18)
    with connect_engine() as client:
        container = client.containers.get(f"mqttkit-{broker.spec.name}")
        assert execute(container, "sh", "-c", HEALTH_COMMAND)[1] == 0


def test_the_health_check_logs_in_and_hears_itself(make: Make, client: Any) -> None:
    """Run by hand, the check succeeds; with the probe's password changed it fails."""
    broker = make()
    up(broker)
    container = client.containers.get(f"mqttkit-{broker.spec.name}")
    check = container.attrs["Config"]["Healthcheck"]["Test"][1]
    assert execute(container, "sh", "-c", check)[1] == 0
    broker.write_file("config/probe/mosquitto_rr", b"-u mqttkit-probe\n-P wrong\n")
    assert execute(container, "sh", "-c", check)[1] != 0


def test_up_again_changes_nothing(make: Make, client: Any) -> None:
    """The same container, the same password."""
    broker = make()
    profile = up(broker)
    identity = broker.running()
    with locked(broker.paths):
        again = broker.up()
    assert again.already
    assert again.profile == profile
    assert broker.running() == identity


def test_down_keeps_data_and_users_and_volumes_removes_them(make: Make, client: Any) -> None:
    """A retained message and the password outlive down and up; `volumes` leaves no trace."""
    broker = make()
    profile = up(broker)
    with Probe(profile.port, profile.username, profile.password) as probe:
        assert probe.publish("kept", b"value", retain=True) in (0, 16)
    with locked(broker.paths):
        assert broker.down()
    assert broker.running() is None
    assert b"user mqttkit" in (broker.read_file("config/acl") or b"")
    profile = up(broker)
    with Probe(profile.port, profile.username, profile.password) as probe:
        probe.subscribe("kept")
        assert probe.wait_for_messages(1)[0].payload == b"value"
    with locked(broker.paths):
        broker.down(volumes=True)
    assert not broker.paths.directory.exists()
    assert not [name for name in leftovers(client)["volumes"] if broker.spec.name in name]


def test_files_are_read_and_written_up_and_down(make: Make) -> None:
    """Owned by the image's broker user with mode 0600; a symbolic link is refused."""
    broker = make()
    up(broker)
    broker.write_file("config/certs/server.key", b"secret")
    with connect_engine() as client:
        container = client.containers.get(f"mqttkit-{broker.spec.name}")
        assert run_in(container, "stat", "-c", "%a %u %g", "/mosquitto/config/certs/server.key") == "600 1883 1883"
        assert "server.key." not in run_in(container, "ls", "/mosquitto/config/certs")
        run_in(container, "sh", "-c", "cat > /dev/null < /dev/null; mv /mosquitto/config/acl /mosquitto/config/was")
        broker.remove_file("config/was")
        assert broker.read_file("config/was") is None
    with locked(broker.paths):
        broker.down()
    assert broker.read_file("config/certs/server.key") == b"secret"
    broker.write_file("config/certs/server.key", b"other")
    assert broker.read_file("config/certs/server.key") == b"other"
    broker.remove_file("config/certs/server.key")
    assert broker.read_file("config/certs/server.key") is None


def test_an_image_that_tells_no_version_is_asked(client: Any, make: Make) -> None:
    """Its mosquitto is run once, and no volume stays."""
    untold = client.containers.create(IMAGE)
    try:
        image = untold.commit(repository="mqttkit/untold", tag="1", changes="ENV VERSION=unknown")
        assert make(image="mqttkit/untold:1").version() == make().version()
    finally:
        untold.remove(v=True)
        client.images.remove(image.id)


def test_a_reload_acts_and_the_log_tells(make: Make) -> None:
    """A removed user is gone after HUP; follow sees the line come."""
    from mqttkit.broker.accounts.passwords import PasswordFile

    broker = make()
    profile = up(broker)
    users = PasswordFile.parse((broker.read_file("config/passwd") or b"").decode())
    broker.write_file("config/passwd", users.with_user("anna", "password").render().encode())
    follow = broker.log_lines(tail=1, follow=True)
    next(follow)
    broker.signal("HUP")
    assert any("Reloading config" in line for line in follow)
    follow.close()
    assert login(profile.port, "anna", "password") == 0
    assert any("running" in line for line in broker.log_lines())
    used = broker.resources()
    assert used is not None
    assert 1 << 20 < used.memory_bytes < 512 << 20
    assert used.limit_bytes == 512 << 20


def test_a_taken_port_is_named_and_nothing_is_left(make: Make, client: Any) -> None:
    """The error names the port, and no container, volume or file stays."""
    before = leftovers(client)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        broker = make(port=port)
        with pytest.raises(PortTaken, match=str(port)):
            up(broker)
    assert leftovers(client) == before
    assert not broker.paths.directory.exists()


def test_a_port_taken_at_the_last_moment_leaves_no_container(
    make: Make, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own refusal is understood, and the container it leaves behind removed."""
    before = leftovers(client)
    choose = port_choice.choose_ports
    chosen: list[BrokerSpec] = []

    def choose_unchecked_once(spec: BrokerSpec, **avoided: Any) -> BrokerSpec:
        chosen.append(spec)
        return spec if len(chosen) == 1 else choose(spec, **avoided)

    monkeypatch.setattr(port_choice, "choose_ports", choose_unchecked_once)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        broker = make(port=taken.getsockname()[1], websocket_port=free_port())
        with pytest.raises(PortTaken):
            up(broker)
    assert leftovers(client) == before
    assert len(chosen) == 2


def test_an_automatic_port_taken_before_the_container_starts_is_chosen_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes MQTT and WebSocket port once: `up` tries others instead of reporting the engine's error."""
    create, taken = engine.create, contextlib.ExitStack()

    def create_late(client: Any, plan: ContainerPlan) -> Any:
        if not taken_ports:
            for port in plan.ports.values():
                taken_ports.append(port)
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        return create(client, plan)

    taken_ports: list[int] = []
    monkeypatch.setattr(engine, "create", create_late)
    with taken:
        broker = make(port=0, websocket_port=None)
        profile = up(broker)
        assert len(taken_ports) == 2
        assert not {profile.port, profile.websocket_port} & set(taken_ports)
        assert login(profile.port, profile.username, profile.password) == 0


def test_a_foreign_container_of_that_name_is_never_touched(make: Make, client: Any, tmp_path: Path) -> None:
    """Neither one without our label nor one of another state directory: refused, still running."""
    broker = make()
    name = f"mqttkit-{broker.spec.name}"
    foreign = client.containers.run(IMAGE, name=name, detach=True)
    try:
        for attempt in (broker.up, broker.down, broker.running, lambda: broker.read_file("config/acl")):
            with pytest.raises(LifecycleError, match="not made by mqttkit"), locked(broker.paths):
                attempt()
        foreign.reload()
        assert foreign.status == "running"
    finally:
        foreign.remove(force=True, v=True)
    up(broker)
    stranger = DockerBroker(broker.spec, BrokerPaths(tmp_path / "elsewhere"))
    with pytest.raises(LifecycleError, match="belongs to the broker in"), locked(stranger.paths):
        stranger.up()
    assert broker.running() is not None


def test_a_missing_image_is_named_and_nothing_is_made(make: Make, client: Any) -> None:
    """Exit code 7, with the way to build one."""
    before = leftovers(client)
    broker = make(image="mqttkit/no-such-image:1.0")
    with pytest.raises(MissingPart, match="containers/offline/build"):
        up(broker)
    assert leftovers(client) == before


def test_without_an_engine_it_is_a_missing_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No engine: exit code 7 immediately, and `unusable` returns the reason."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    assert "no Docker engine" in DockerBroker.unusable()
    broker = DockerBroker(BrokerSpec(backend="docker"), BrokerPaths(tmp_path / "b"))
    with pytest.raises(MissingPart, match="no Docker engine"), locked(broker.paths):
        broker.up()


def test_tls_without_a_certificate_makes_one(make: Make) -> None:
    """Signed by the broker's own authority, whose certificate the profile names."""
    profile = up(make(tls_port=free_port()))
    context = ssl.create_default_context(cafile=profile.ca_file)
    user = {"username": profile.username, "password": profile.password}
    assert ask(Login(host=profile.host, port=profile.tls_port, tls=context, **user)).accepted


def test_the_next_up_cleans_up_after_a_killed_one(make: Make, client: Any) -> None:
    """SIGKILL between creating and starting leaves a container; the next `up` takes its place."""
    broker = make()
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from docker.models.containers import Container\n"
        "from mqttkit.broker import BrokerPaths, BrokerSpec\n"
        "from mqttkit.broker.backends.docker.backend import DockerBroker\n"
        "from mqttkit.broker.profile import locked\n"
        "Container.start = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "paths = BrokerPaths(Path(sys.argv[1]))\n"
        "with locked(paths):\n"
        "    DockerBroker(BrokerSpec(name=sys.argv[2], backend='docker', port=0, image=sys.argv[3]), paths).up()\n"
    )
    arguments = [str(broker.paths.directory), broker.spec.name, IMAGE]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], env=os.environ, check=False)
    assert killed.returncode == -9
    assert client.containers.get(f"mqttkit-{broker.spec.name}").status == "created"
    profile = up(broker)
    assert login(profile.port, profile.username, profile.password) == 0
    assert load_spec(broker.paths) is not None
    assert read_profile(broker.paths) == profile


def test_volumes_without_their_profile_get_their_users_back(make: Make) -> None:
    """Where our state is lost and the volumes are not, `up` gives the old broker its new passwords."""
    broker = make()
    old = up(broker)
    with locked(broker.paths):
        broker.down()
    broker.paths.profile.unlink()
    broker.paths.spec.unlink()
    new = up(broker)
    assert new.password != old.password
    assert login(new.port, new.username, new.password) == 0


def test_a_container_of_the_same_network_reaches_the_broker_by_its_name(make: Make, client: Any) -> None:
    """Health check and operator use the published port; the other container uses mqttkit-NAME:1883."""
    network = client.networks.create(f"t{uuid.uuid4().hex[:8]}")
    try:
        broker = make(network=network.name)
        profile = up(broker)
        command = f"mosquitto_pub -h mqttkit-{broker.spec.name} -t a -m b -u {profile.probe_username} -P wrong"
        output = client.containers.create(IMAGE, ["-c", command], entrypoint=["sh"], network=network.name)
        try:
            output.start()
            output.wait(timeout=30)
            assert "not authorised" in output.logs().decode().lower()
        finally:
            output.remove(force=True, v=True)
        with locked(broker.paths):
            broker.down(volumes=True)
    finally:
        network.remove()


def test_a_network_that_does_not_exist_is_named(make: Make) -> None:
    with pytest.raises(UsageError, match="docker network create"), locked((broker := make(network="absent")).paths):
        broker.up()


def test_without_a_plain_listener_only_tls_is_published_and_the_health_check_works(make: Make, client: Any) -> None:
    broker = make(plain=False, tls_port=free_port())
    profile = up(broker)
    assert ask(operator_login(profile)).accepted
    container = client.containers.get(f"mqttkit-{broker.spec.name}")
    assert list(container.attrs["HostConfig"]["PortBindings"]) == ["8883/tcp"]
    assert execute(container, "sh", "-c", HEALTH_COMMAND)[1] == 0
    assert b"listener 1883 127.0.0.1\n" in (broker.read_file("config/mosquitto.conf") or b"")
