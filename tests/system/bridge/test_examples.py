"""The examples of the bridge and its page, each tried."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mqttkit.bridge.metric import MetricRefusal
from mqttkit.broker.accounts.acl import Access, AclFile, AclRule
from mqttkit.broker.accounts.acl_simulator import lint
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.accounts.roles import role_rules
from tests.support.bridges import TENANT, body, metric_topic, publish_numbers, publisher, rows, wait_until
from tests.support.brokers import MOSQUITTO_PATHS, end, free_port, missing, mosquitto, need, wait_for_port
from tests.support.pages import ROOT, find_page
from tests.support.redis import redis_server

pytestmark = pytest.mark.system
EXAMPLES = ROOT / "examples" / "bridge"
MQTTKIT = Path(sys.executable).with_name("mqttkit")


def test_systemd_unit_is_sound(tmp_path: Path) -> None:
    """systemd-analyze finds nothing wrong, and a low exposure. A broker that is down at the start has no time limit."""
    analyze = need("systemd-analyze")
    text = (EXAMPLES / "mqttkit-bridge.service").read_text()
    assert "\nTimeoutStartSec=infinity\n" in text
    unit = tmp_path / "mqttkit-bridge.service"
    unit.write_text(text.replace("/usr/local/bin/mqttkit", str(MQTTKIT)))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(unit)], capture_output=True, text=True
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
    assert exposure is not None, rated.stdout + rated.stderr
    assert float(exposure[1]) < 2.5


def test_supervisor_program_is_kept_alive(tmp_path: Path) -> None:
    """supervisord runs the bridges of the example; a killed one comes back, and `stop` drains them."""
    program = configparser.RawConfigParser()
    program.read(EXAMPLES / "supervisor.conf")
    section = dict(program["program:mqttkit-bridge"])
    log = tmp_path / "bridge.log"
    with mosquitto(tmp_path / "mosquitto") as broker, redis_server(tmp_path / "redis") as redis:
        section["command"] = (
            section["command"]
            .replace("mqttkit bridge", f"{MQTTKIT} bridge")
            .replace("redis://localhost", redis.url)
            .replace("--host localhost", f"--host 127.0.0.1 --port {broker.port}")
            .replace("/etc/mqttkit/tenants.yaml", str(EXAMPLES / "tenants.yaml"))
        )
        section["environment"] = section["environment"].replace("/var/lib/mqttkit", str(tmp_path / "state"))
        section["stdout_logfile"] = f"{log}-%(process_num)d"
        section["numprocs"] = "2"
        conf = tmp_path / "supervisord.conf"
        lines = [f"{name}={value}" for name, value in section.items()]
        head = [
            "[supervisord]",
            f"logfile={tmp_path / 'supervisord.log'}",
            f"pidfile={tmp_path / 'supervisord.pid'}",
            f"childlogdir={tmp_path}",
            "nodaemon=true",
            *(["user=root"] if os.geteuid() == 0 else []),
        ]
        conf.write_text("\n".join([*head, "[program:mqttkit-bridge]", *lines]) + "\n")
        server = subprocess.Popen([need("supervisord"), "-c", str(conf)], stdout=subprocess.DEVNULL)
        try:
            _try_supervised(tmp_path, server, broker.port, redis.client())
        finally:
            server.terminate()
            server.wait(60)
        assert server.returncode == 0
        assert "in_flight=0" in Path(f"{log}-0").read_text().splitlines()[-1]


def _try_supervised(tmp_path: Path, server: subprocess.Popen[bytes], port: int, client: object) -> None:
    def children() -> set[int]:
        found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        return {int(pid) for pid in found}

    def subscribed() -> int:
        return sum(path.read_text().count("subscribed to $share/ingest") for path in tmp_path.glob("bridge.log-*"))

    with contextlib.closing(client) as redis:  # type: ignore[type-var]
        wait_until(lambda: subscribed() == 2)
        with publisher(port) as devices:
            publish_numbers(devices, range(200))
            victim = min(children())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in children() and len(children()) == 2)
            wait_until(lambda: subscribed() == 3)
            publish_numbers(devices, range(200, 400))
        wait_until(lambda: redis.xlen("mqttkit:metrics") == 400)  # type: ignore[attr-defined]


def test_compose_file_is_sound() -> None:
    """docker-compose takes it; every file that it mounts or copies is there, and what must survive has a volume.

    It publishes ports on loopback only, and gives each container only the secrets that it needs.
    """
    compose = EXAMPLES / "compose.yaml"
    done = subprocess.run([need("docker-compose"), "-f", str(compose), "config"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    services = yaml.safe_load(done.stdout)["services"]
    volumes = {name: [_source(volume) for volume in service["volumes"]] for name, service in services.items()}
    assert {name: [Path(source).name for source in sources] for name, sources in volumes.items()} == {
        "broker": ["mosquitto.conf", "broker"],
        "redis": ["redis"],
        "bridge": ["bridge", "bridge"],
        "worker": ["worker"],
    }
    needed = [source for sources in volumes.values() for source in sources if source.startswith("/")]
    for service in ("bridge", "worker"):
        build = services[service]["build"]
        recipe = Path(build["context"], build["dockerfile"]).read_text()
        copied = [words.split()[1:-1] for words in recipe.splitlines() if words.startswith("COPY")]
        needed += [f"{build['context']}/{name}" for names in copied for name in names]
    assert [path for path in needed if not Path(path).exists()] == []
    assert Path(volumes["bridge"][0]).is_dir(), "a container does not see a file that an editor replaces"
    assert re.fullmatch(r"eclipse-mosquitto:\d+\.\d+\.\d+", services["broker"]["image"])
    assert "max_queued_messages 0" not in (EXAMPLES / "mosquitto.conf").read_text().splitlines()
    written = yaml.safe_load(compose.read_text())
    assert {name: service.get("ports") for name, service in written["services"].items()} == {
        "broker": ["127.0.0.1:1883:1883", "127.0.0.1:9001:9001"],
        "redis": None,
        "bridge": ["127.0.0.1:9464:9464"],
        "worker": None,
    }
    secrets = {name: service.get("secrets") for name, service in written["services"].items()}
    assert secrets == {"broker": ["passwd", "acl"], "redis": None, "bridge": ["bridge.password"], "worker": None}
    assert written["networks"] == {"default": {"name": "mqttkit-bridge"}}


def _source(volume: str | dict[str, str]) -> str:
    """What a service mounts; docker-compose 1 and 2 write it differently."""
    return volume["source"] if isinstance(volume, dict) else volume.split(":")[0]


def test_acl_of_the_example_gives_the_bridge_the_rights_of_its_role() -> None:
    """A device may do nothing but publish metrics of its tenant and agent, and the linter has no objection."""
    acl = AclFile.parse((EXAMPLES / "acl").read_text())
    assert (acl.anonymous, acl.patterns) == ((), ())
    assert acl.users == {
        "bridge": tuple(role_rules("bridge", "bridge")),
        "agent-1": (AclRule(Access.WRITE, f"metrics/{TENANT}/agent-1/#"),),
    }
    assert lint(acl, users=("bridge", "agent-1")) == []


def test_users_script_makes_passwords_once(tmp_path: Path) -> None:
    """Others can read no file; the bridge's user owns its password. A second run refuses and changes nothing."""
    place = _copy_with_users(tmp_path)
    made = {path.name: path for path in (place / "secrets").iterdir()}
    assert set(made) == {"passwd", "bridge.password", "agent-1.password"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.values()} == {0o600}
    assert stat.S_IMODE((place / "secrets").stat().st_mode) == 0o700
    user = re.search(r"useradd .*--uid (\d+)", (EXAMPLES / "Dockerfile").read_text())
    assert user is not None
    assert made["bridge.password"].stat().st_uid == int(user[1])
    stored = PasswordFile.parse(made["passwd"].read_text())
    passwords = {name: made[f"{name}.password"].read_text().strip() for name in stored.hashes}
    assert all(stored.verify(name, password) for name, password in passwords.items())
    assert len({password for password in passwords.values() if len(password) == 48}) == 2
    before = {name: path.read_bytes() for name, path in made.items()}
    again = subprocess.run([place / "make-users"], capture_output=True, text=True)
    assert again.returncode == 1
    assert "remove the directory secrets first" in again.stderr
    assert {path.name: path.read_bytes() for path in (place / "secrets").iterdir()} == before


def test_users_script_that_fails_leaves_no_password(tmp_path: Path) -> None:
    """Without mosquitto_passwd and Docker it ends with an error and removes what it has made."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dirname", "id", "mkdir", "od", "rm", "sed", "sh", "tr"):
        (programs / name).symlink_to(need(name))
    place = _copy(tmp_path)
    done = subprocess.run([place / "make-users"], env={"PATH": str(programs)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "docker" in done.stderr
    assert not (place / "secrets").exists()


def _copy(directory: Path) -> Path:
    """Return a copy of the example, without the passwords that somebody may have made in it."""
    return shutil.copytree(EXAMPLES, directory / "examples" / "bridge", ignore=shutil.ignore_patterns("secrets"))


def _copy_with_users(directory: Path) -> Path:
    """Return a copy of the example in which the script has made the passwords with this machine's mosquitto_passwd."""
    need("mosquitto_passwd")
    if os.geteuid() != 0:
        missing("only root gives a file to the bridge's user without Docker")
    place = _copy(directory)
    subprocess.run([place / "make-users"], check=True, env={**os.environ, "DOCKER_HOST": "unix:///nowhere"})
    return place


@contextlib.contextmanager
def _composed_broker(place: Path, command: list[str]) -> Iterator[tuple[int, int, Path]]:
    """Run the command of the compose file's broker here; yield its ports for MQTT and WebSocket, and its log.

    Its directory is one that the user `mosquitto` can enter, because the broker leaves root at its start.
    """
    with tempfile.TemporaryDirectory(prefix="mqttkit-compose-") as name:
        home, ports = Path(name), (free_port(), free_port())
        home.chmod(0o755)
        for directory in (home / "config", home / "data"):
            directory.mkdir()
            shutil.chown(directory, "mosquitto", "mosquitto")
        conf = (place / "mosquitto.conf").read_text().replace("/mosquitto/", f"{home}/")
        for listener, port in zip((1883, 9001), ports, strict=True):
            conf = conf.replace(f"listener {listener}\n", f"listener {port} 127.0.0.1\nsocket_domain ipv4\n")
        (home / "config" / "mosquitto.conf").write_text(conf + "log_dest stderr\nlog_type all\n")
        places = {"passwd": place / "secrets" / "passwd", "acl": place / "acl"}
        words = [re.sub("/run/secrets/([a-z]+)", lambda found: str(places[found[1]]), word) for word in command]
        words = [word.replace("/mosquitto/", f"{home}/") for word in words]
        path = f"{os.environ.get('PATH', '')}:{MOSQUITTO_PATHS}"
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(words, env={**os.environ, "PATH": path}, stdout=log, stderr=log)
        try:
            for port in ports:
                wait_for_port(port)
            yield *ports, home / "log"
        finally:
            end(process, signal.SIGTERM)


def test_compose_files_commands_carry_a_metric_through(tmp_path: Path) -> None:
    """The commands of broker, bridge and worker, with names and paths replaced, move a metric from MQTT to SQLite.

    The one that the file tells to type publishes it, over MQTT and over WebSocket. Others' topics are denied.
    """
    place = _copy_with_users(tmp_path)
    services = yaml.safe_load((place / "compose.yaml").read_text())["services"]
    assert set(services) == {"broker", "redis", "bridge", "worker"}
    options = services["redis"]["command"][1:]
    lines = [" ".join(pair).removeprefix("--") for pair in zip(options[::2], options[1::2], strict=True)]
    with (
        _composed_broker(place, services["broker"]["command"]) as (port, websocket_port, log),
        redis_server(tmp_path / "redis", *lines) as redis,
        contextlib.ExitStack() as stack,
    ):
        names = {
            "broker": "127.0.0.1",
            "redis://redis": redis.url,
            "/etc/mqttkit/tenants.yaml": str(EXAMPLES / "tenants.yaml"),
            "/run/secrets/bridge.password": str(place / "secrets" / "bridge.password"),
            "sqlite:/var/lib/mqttkit/metrics.db": f"sqlite:{tmp_path / 'metrics.db'}",
            "0.0.0.0": "127.0.0.1",
            "9464": "0",
        }
        environment = {**os.environ, "MQTTKIT_MQTT_BROKER_PORT": str(port)}
        for service in ("bridge", "worker"):
            words = [names.get(word, word) for word in services[service]["command"]]
            process = subprocess.Popen([MQTTKIT, *words], env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(lambda: "metrics/# (QoS 1)" in log.read_text())
        _publish_as_told(place, environment, f"ws://localhost:{websocket_port}")
        found = [(TENANT, "agent-1", 21.5)] * 2
        query = "SELECT tenant_id, agent_id, value FROM metrics"
        wait_until(lambda: rows(tmp_path / "metrics.db", query) == found)
        assert "Warning: File" not in log.read_text(), "mosquitto objects to a file's owner or mode"


def _publish_as_told(place: Path, environment: dict[str, str], websocket: str) -> None:
    """Type the command in the compose file's head, also with another topic, without a user, and over WebSocket."""
    told = re.search(r"#   (mqttkit pub .*?\\\n.*)\n# Over WebSocket", (place / "compose.yaml").read_text())
    assert told is not None
    words = shlex.split(re.sub(r"\\\n#", "", told[1]))[1:]

    def publish(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([MQTTKIT, *words], env=environment, cwd=place, capture_output=True, text=True)

    topic = words[words.index("-t") + 1]
    assert topic == metric_topic(TENANT, "agent-1")
    for other in (metric_topic(TENANT, "agent-2"), metric_topic(str(uuid.uuid4()), "agent-1")):
        denied = publish(*(other if word == topic else word for word in words))
        assert denied.returncode == 6, denied.stderr
    start = words.index("-u")
    refused = publish(*words[:start], *words[start + 4 :])
    assert refused.returncode != 0
    assert "not authorized" in refused.stderr.lower(), refused.stderr
    for told_words in (words, [*words, "-L", websocket]):
        done = publish(*told_words)
        assert done.returncode == 0, done.stderr


def test_pages_first_metric_arrives(tmp_path: Path) -> None:
    """The page's first command and its first message work unchanged."""
    page = find_page("bridge.md").read_text()
    run = re.search(r"\$ mqttkit (bridge run --sink sqlite.*)", page)
    message = re.search(r"```sh\nmqttkit (.*?)\n```", page, re.DOTALL)
    assert run is not None
    assert message is not None
    with mosquitto(tmp_path / "mosquitto") as broker:
        environment = {**os.environ, "MQTTKIT_MQTT_BROKER_PORT": str(broker.port), "PATH": f"{MQTTKIT.parent}:/bin"}
        _copy(tmp_path)
        process = subprocess.Popen([MQTTKIT, *run[1].split()], env=environment, cwd=tmp_path)
        try:
            wait_until(lambda: "metrics/# (QoS 1)" in broker.log)
            subprocess.run(f"mqttkit {message[1]}", shell=True, check=True, env=environment, cwd=tmp_path)
            query = "SELECT value, dedupe_id, timestamp_ms FROM metrics"
            expected = [(21.5, "agent-1-000042", 1_795_233_600_000)]
            wait_until(lambda: rows(tmp_path / "metrics.db", query) == expected)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def test_page_names_every_reason() -> None:
    """A new reason code is documented."""
    page = find_page("bridge.md").read_text()
    assert [reason.value for reason in MetricRefusal if f"`{reason.value}`" not in page] == []


def test_compose_with_bridge_runs_the_bridge(tmp_path: Path) -> None:
    """docker-compose takes the printed file, and its command, run here, stores a metric and passes its health check.

    The broker has WebSocket, a network with a name, and the configuration, users and ACL of `broker up`.
    """
    done = subprocess.run(
        [MQTTKIT, "broker", "compose", "--with-bridge"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "empty")},
    )
    (tmp_path / "compose.yaml").write_text(done.stdout)
    compose = [need("docker-compose"), "-f", str(tmp_path / "compose.yaml"), "config", "-q"]
    assert subprocess.run(compose, capture_output=True, check=False).stderr == b""
    found = yaml.safe_load(done.stdout)
    broker_service, service = (found["services"][f"mqttkit-default{suffix}"] for suffix in ("", "-bridge"))
    assert broker_service["ports"] == ["127.0.0.1:1883:1883", "127.0.0.1:9001:9001"]
    assert "mqttkit-default-config:/mosquitto/config" in broker_service["volumes"]
    assert found["volumes"]["mqttkit-default-config"] == {"external": True}
    assert found["networks"] == {"default": {"name": "mqttkit-default"}}
    assert service["command"][4:6] == ["--username", "bridge"]
    (tmp_path / "tenants.yaml").write_text(f"- {TENANT}\n")
    secret = tmp_path / "bridge.password"
    secret.touch(0o600)
    secret.write_text("word\n")
    port = str(free_port())
    with mosquitto(tmp_path / "mosquitto") as broker:
        places = {"mqttkit-default": f"127.0.0.1:{broker.port}", "9464": port, "0.0.0.0": "127.0.0.1"}
        words = [places.get(word, word) for word in service["command"]]
        words = [re.sub("/(etc|var/lib)/mqttkit/", f"{tmp_path}/", word) for word in words]
        process = subprocess.Popen([MQTTKIT, *words], env={**os.environ, "XDG_STATE_HOME": str(tmp_path)})
        try:
            check = [sys.executable, *service["healthcheck"]["test"][2:-1]]
            check.append(service["healthcheck"]["test"][-1].replace("9464", port))
            wait_until(lambda: not subprocess.run(check, capture_output=True, check=False).returncode)
            with publisher(broker.port) as client:
                wait_until(
                    lambda: client.publish(metric_topic(), body(1), qos=1) and rows(tmp_path / "metrics.db") == [(1,)]
                )
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0
