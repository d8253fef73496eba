"""How to install and configure each broker: one function a broker, which returns its nodes ready to start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.interoperability.debian import NotInstalled, Sid, run
from tests.interoperability.more_brokers import activemq, aedes, ejabberd
from tests.interoperability.nodes import Cluster, Node
from tests.support.brokers import MOSQUITTO_PATHS, free_port

RABBITMQ_SETTINGS = "mqtt.max_packet_size_authenticated = 16777216"
NATS_MAX_PAYLOAD = 8 * 1024 * 1024


def mosquitto_of_the_machine(directory: Path) -> Cluster:
    """Return the mosquitto that this machine has, usually 2.0."""
    program = shutil.which("mosquitto", path=MOSQUITTO_PATHS)
    if program is None:
        raise NotInstalled("mosquitto is not installed")
    return _mosquitto([program], directory)


def mosquitto_of_sid(directory: Path) -> Cluster:
    """Return the mosquitto of Debian sid, 2.1 or newer."""
    sid = Sid()
    sid.install("mosquitto")
    return _mosquitto(sid.outside("/usr/sbin/mosquitto"), directory)


def _mosquitto(command: list[str], directory: Path) -> Cluster:
    port = free_port()
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "user root", "max_queued_messages 100000"]
    (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    version = subprocess.run([*command, "-h"], capture_output=True, text=True).stdout.split("\n")[0].split()[-1]
    node = Node("mosquitto", port, [*command, "-c", "mosquitto.conf"], directory)
    return Cluster("mosquitto", version, [node], "`max_queued_messages 100000`: it drops above 1,000 for a client")


def amqtt(directory: Path) -> Cluster:
    """Return amqtt, from PyPI in a separate virtual environment."""
    python = directory.parent / "amqtt-python" / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(python.parent.parent)])
        run([str(python), "-m", "pip", "install", "--quiet", "amqtt"])
    port = free_port()
    text = f"listeners: {{default: {{type: tcp, bind: '127.0.0.1:{port}'}}}}\n"
    plugins = "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}\n"
    (directory / "amqtt.yaml").write_text(text + plugins)
    show = "import importlib.metadata as m; print(m.version('amqtt'))"
    version = subprocess.run([str(python), "-c", show], capture_output=True, text=True).stdout.strip()
    node = Node("amqtt", port, [str(python.parent / "amqtt"), "-c", "amqtt.yaml"], directory)
    return Cluster("amqtt", version, [node])


def rabbitmq(directory: Path, nodes: int = 1) -> Cluster:
    """Return RabbitMQ with its MQTT plugin; several nodes form a cluster with quorum queues."""
    sid = Sid()
    sid.install("rabbitmq-server")
    inside = sid.place(directory)
    epmd, names = free_port(), [f"mqttkit{number}@localhost" for number in range(nodes)]
    (sid.root / "root" / ".erlang.cookie").write_text("interoperability")
    (sid.root / "root" / ".erlang.cookie").chmod(0o400)
    members = []
    for name in names:
        port, place = free_port(), directory / name
        place.mkdir(exist_ok=True)
        lines = [f"listeners.tcp.1 = 127.0.0.1:{free_port()}", f"mqtt.listeners.tcp.1 = 127.0.0.1:{port}"]
        lines += [RABBITMQ_SETTINGS]
        if nodes > 1:
            lines += ["mqtt.durable_queue_type = quorum", "cluster_formation.peer_discovery_backend = classic_config"]
            lines += [f"cluster_formation.classic_config.nodes.{at} = {each}" for at, each in enumerate(names, 1)]
        (place / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (place / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        environment = {
            "HOME": "/root",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": f"{inside}/{name}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/{name}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{inside}/{name}/data",
            "RABBITMQ_LOG_BASE": f"{inside}/{name}/log",
            "RABBITMQ_LOGS": "-",
        }
        command = sid.bound(directory, ["/usr/lib/rabbitmq/bin/rabbitmq-server"])
        members.append(Node(name, port, command, directory, environment))
    helper = Node("epmd", epmd, sid.bound(directory, ["/usr/bin/epmd", "-port", str(epmd)]), directory)
    quorum = "; `mqtt.durable_queue_type = quorum` (classic queues are on one node only)"
    settings = f"`{RABBITMQ_SETTINGS}`" + (quorum if nodes > 1 else "")
    return Cluster("RabbitMQ", sid.version("rabbitmq-server"), members, settings, helpers=[helper])


def nats(directory: Path, nodes: int = 1, *, defaults: bool = False) -> Cluster:
    """Return NATS with JetStream, which its MQTT needs; with `defaults` it sends again after 30 s."""
    sid = Sid()
    sid.install("nats-server")
    routes = [free_port() for _ in range(nodes)]
    members = []
    for number, route in enumerate(routes):
        port, name = free_port(), f"nats{number}"
        lines = [
            f"server_name: {name}",
            f"host: 127.0.0.1\nport: {free_port()}",
            *([] if defaults else [f"max_payload: {NATS_MAX_PAYLOAD}"]),
        ]
        lines += [f"jetstream {{ store_dir: {directory}/{name} }}"]
        more = "" if defaults else ", ack_wait: 5s, max_ack_pending: 1000"
        lines += [f"mqtt {{ host: 127.0.0.1, port: {port}{more} }}"]
        if nodes > 1:
            peers = ", ".join(f"nats://127.0.0.1:{each}" for each in routes)
            lines += [f"cluster {{ name: mqttkit, host: 127.0.0.1, port: {route}, routes: [{peers}] }}"]
        (directory / f"{name}.conf").write_text("\n".join(lines) + "\n")
        command = sid.outside("/usr/sbin/nats-server")
        members.append(Node(name, port, [*command, "-c", f"{name}.conf"], directory))
    settings = (
        "`max_payload: 8MB` (1 MB); `mqtt { ack_wait: 5s, max_ack_pending: 1000 }` (30 s until it sends again; 1024)"
    )
    if defaults:
        settings = "the defaults: `max_payload: 1MB`, `ack_wait: 30s`"
    name = "NATS with its defaults," if defaults else "NATS"
    return Cluster(name, sid.version("nats-server"), members, settings)


BROKERS: dict[str, Callable[[Path], Cluster]] = {
    "mosquitto-2.0": mosquitto_of_the_machine,
    "mosquitto-2.1": mosquitto_of_sid,
    "amqtt": amqtt,
    "nats": nats,
    "nats-defaults": lambda directory: nats(directory, defaults=True),
    "rabbitmq": rabbitmq,
    "ejabberd": ejabberd,
    "activemq": activemq,
    "aedes-2": aedes,
    "nats-3": lambda directory: nats(directory, 3),
    "rabbitmq-3": lambda directory: rabbitmq(directory, 3),
}
"""By the name for --only, in the order of the matrix."""
