"""Further brokers: ejabberd, ActiveMQ, and aedes with Redis."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.interoperability.debian import NotInstalled, Sid, run
from tests.interoperability.nodes import Cluster, Node
from tests.support.brokers import free_port

AEDES = Path(__file__).parent.parent / "support" / "aedes"
JARS = (
    *("/usr/share/activemq/lib/*", "/usr/share/activemq/lib/optional/*"),
    *(f"/usr/share/java/{name}.jar" for name in ("mqtt-client", "hawtdispatch", "hawtdispatch-transport", "hawtbuf")),
)


def ejabberd(directory: Path) -> Cluster:
    """Return ejabberd with its MQTT service and anonymous users."""
    sid = Sid()
    sid.install("ejabberd")
    port, inside = free_port(), sid.place(directory)
    text = f"""
hosts: [localhost]
listen:
  - {{port: {port}, ip: "127.0.0.1", module: mod_mqtt, backlog: 1000}}
auth_method: [anonymous]
anonymous_protocol: login_anon
allow_multiple_connections: true
modules:
  mod_mqtt:
    access_publish: {{"#": [{{allow: all}}]}}
    access_subscribe: {{"#": [{{allow: all}}]}}
    max_queue: 100000
"""
    (directory / "ejabberd.yml").write_text(text)
    ebin = next(sid.root.glob("usr/lib/*/ejabberd-*/ebin"), None)
    if ebin is None:
        raise NotInstalled("the package ejabberd has no ebin directory")
    words = ["erl", "-noinput", "+K", "true", "-mnesia", "dir", f'"{inside}/database"']
    words += ["-pa", f"/{ebin.relative_to(sid.root)}", "-s", "ejabberd"]
    environment = {
        "HOME": "/root",
        "EJABBERD_CONFIG_PATH": f"{inside}/ejabberd.yml",
        "EJABBERD_LOG_PATH": f"{inside}/ejabberd.log",
    }
    node = Node("ejabberd", port, sid.bound(directory, words), directory, environment)
    settings = "`mod_mqtt: {max_queue: 100000}` (5,000 packets that wait for a client)"
    return Cluster("ejabberd", sid.version("ejabberd"), [node], settings)


def activemq(directory: Path) -> Cluster:
    """Return ActiveMQ with its MQTT transport."""
    sid = Sid()
    sid.install("default-jre-headless", "activemq", "libmqtt-client-java")
    port, inside = free_port(), sid.place(directory)
    broker = f"broker:(mqtt://127.0.0.1:{port})?persistent=true&useJmx=false&dataDirectory={inside}"
    words = ["java", f"-Dactivemq.home={inside}", "-cp", ":".join(JARS)]
    words += ["org.apache.activemq.console.command.ShellCommand", "start", broker]
    node = Node("activemq", port, sid.bound(directory, words), directory)
    return Cluster("ActiveMQ", sid.version("activemq"), [node], "`libmqtt-client-java`, the package with its MQTT")


def aedes(directory: Path, nodes: int = 2) -> Cluster:
    """Return aedes nodes that share a Redis."""
    server = shutil.which("redis-server")
    if server is None:
        raise NotInstalled("redis-server is not installed")
    packages = directory.parent / "aedes-packages"
    packages.mkdir(exist_ok=True)
    for name in ("package.json", "node.mjs"):
        shutil.copy(AEDES / name, packages / name)
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], packages)
    redis = free_port()
    store = [server, "--port", str(redis), "--bind", "127.0.0.1", "--dir", str(directory), "--appendonly", "yes"]
    members = []
    for number in range(nodes):
        port = free_port()
        members.append(
            Node(f"aedes{number}", port, ["node", str(packages / "node.mjs"), str(port), str(redis)], directory)
        )
    version = json.loads((packages / "package.json").read_text())["dependencies"]["aedes"]
    helper = Node("redis", redis, store, directory)
    return Cluster("aedes", version, members, "`queueLimit`, `maxSessionDelivery`: 100,000 messages", helpers=[helper])
