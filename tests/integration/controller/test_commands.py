"""`mqttkit controller` as it is typed; the examples of docs/how-to/controller.md are run here."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mqttkit.cli import cli
from mqttkit.client import MqttClient
from mqttkit.controller import LocalController
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import PlainCodec
from mqttkit.controller.status_book import StatusBook
from mqttkit.messages import Message, Subscription
from tests.support.brokers import Mosquitto, free_port
from tests.support.controllers import broker_at, eventually, settings_of
from tests.support.pages import ROOT, find_page

PAGE = find_page("controller.md")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reachable(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, topic: str) -> Iterator[Mosquitto]:
    """The test's broker as everybody's default, beneath the test's own base topic."""
    monkeypatch.setenv("MQTTKIT_PORT", str(broker.port))
    monkeypatch.setenv("MQTTKIT_HOST", "127.0.0.1")
    monkeypatch.setenv("MQTTKIT_CONTROLLER_BASE", topic)
    yield broker


def run(*arguments: str) -> Result:
    """Run `mqttkit controller ...` in this process."""
    return CliRunner().invoke(cli, ["controller", *arguments])


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """Run `mqttkit controller ...` in a process of its own."""
    command = [sys.executable, "-m", "mqttkit", "controller", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_simulate_tells_the_story_and_leaves_nothing_behind(reachable: Mosquitto, topic: str) -> None:
    """Six numbered steps, the reports matched, exit code 0, no retained message."""
    told = run("simulate", "--locals", "2", "--seed", "7", "--timeout", "60")
    assert told.exit_code == 0, told.output
    steps = [line for line in told.stdout.splitlines() if line.startswith("[")]
    assert [line[:5] for line in steps] == [f"[{number}/6]" for number in range(1, 7)]
    assert told.stdout.count("received and matched") == 2
    assert told.stdout.splitlines()[-1] == "complete: 2 of 2 reports received"
    left: list[Message] = []
    with MqttClient(broker_at(reachable.port), on_message=left.append) as client:
        client.connect()
        client.subscribe(Subscription(f"{topic}/#", qos=1))
        client.publish(f"{topic}/last", b"x", qos=1)
        eventually(lambda: bool(left))
    assert [message.topic for message in left] == [f"{topic}/last"]


def test_one_seed_finds_the_same_devices(reachable: Mosquitto) -> None:
    """Reproducible."""
    first, second, other = (run("simulate", "--seed", seed, "--timeout", "60").stdout for seed in ("1", "1", "2"))
    assert first == second
    assert first != other


def test_simulate_without_a_broker_says_so() -> None:
    """Exit code 3, and the command that starts one."""
    refused = run("simulate", "-h", "127.0.0.1", "-p", str(free_port()))
    assert refused.exit_code == 3
    assert "mqttkit broker up" in refused.stderr


def test_simulate_fails_where_a_report_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that lets nobody read reports: exit code 1 or the denial, never 0."""
    from tests.support.brokers import mosquitto

    (tmp_path / "acl").write_text("topic readwrite pdsno/status/#\ntopic write pdsno/discovery/#\n")
    with mosquitto(tmp_path / "m", f"acl_file {tmp_path / 'acl'}") as broker:
        told = run("simulate", "-h", "127.0.0.1", "-p", str(broker.port), "--timeout", "1")
    assert told.exit_code in (1, 5, 6), told.output
    assert "complete: 1 of 1" not in told.stdout


def test_a_fleet_of_processes_talks(reachable: Mosquitto, here: Path) -> None:
    """regional, local, global and watch, each a process; SIGTERM ends them with 0."""
    assert run("key", "generate").exit_code == 0
    (here / "rules.json").write_text('{"scan": "hourly"}')
    regional = spawn("regional", "--controller-id", "rc-1", "--heartbeat", "0.5")
    high = spawn("global", "--controller-id", "gc-1", "--policy", "rules.json")
    local = spawn(
        "local", "--controller-id", "lc-1", "--interval", "1", "--subnet", "192.168.1.0/29", "--heartbeat", "0.5"
    )
    try:
        assert regional.stdout is not None and local.stdout is not None
        report = json.loads(regional.stdout.readline())
        assert (report["from"], report["subnet"]) == ("lc-1", "192.168.1.0/29")
        policy = {"policy": "global", "version": 1, "rules": {"scan": "hourly"}, "expires": None}
        assert any(json.loads(line) == policy for line in local.stdout)
        everyone = {"gc-1": ("global", "online"), "lc-1": ("local", "online"), "rc-1": ("regional", "online")}
        eventually(lambda: {name: (row["role"], row["status"]) for name, row in watched().items()} == everyone, 60)
        eventually(lambda: watched().get("lc-1", {}).get("policies") == {"global": 1}, 60)
        eventually(lambda: watched().get("rc-1", {}).get("reports", 0) >= 1, 60)
    finally:
        ended = [_end(process) for process in (local, regional, high)]
    assert [code for code, _ in ended] == [0, 0, 0], ended
    eventually(lambda: run("watch", "--once", "--duration", "1").stdout.count("offline") == 3, 60)


def watched() -> dict[str, dict[str, Any]]:
    """Return what `watch` sees in half a second, by controller."""
    shown = run("watch", "--once", "--duration", "0.5", "--json")
    return {row["controller"]: row for row in map(json.loads, shown.stdout.splitlines())}


def test_the_sender_shown_is_the_verified_one(reachable: Mosquitto, here: Path, topic: str) -> None:
    """A payload that names another controller does not change who sent the report."""
    assert run("key", "generate").exit_code == 0
    keys = str(here / "state" / "mqttkit" / "controllers" / "keys.json")
    regional = spawn("regional", "--controller-id", "rc-1")
    try:
        with LocalController(settings_of(here, "lc-1", base=topic, key_file=keys), broker_at(reachable.port)) as local:
            local.publish_discovery_report({"devices": [], "from": "lc-9"}).wait(60)
            assert regional.stdout is not None
            assert json.loads(regional.stdout.readline())["from"] == "lc-1"
    finally:
        _end(regional)


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_local_controller_that_nobody_hears_ends_with_6(
    reachable: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report was left: the broker says that nobody subscribes."""
    monkeypatch.setattr("mqttkit.cli.controller.run.FLUSH_SECONDS", 1.0)
    run("key", "generate")
    left = run("local", "--controller-id", "lc-1", "--cycles", "1", "--quiet")
    assert left.exit_code == 6, left.output
    assert "no receipt for 1 reports within 1 s; a transport had taken 0 of them" in left.stderr
    assert "Is a regional controller of the same region running?" in left.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["local"], "controller.id: a controller needs an identifier. Give one: --id NAME"),
    (["local", "--controller-id", "a/b"], "--controller-id: controller.id: controller id 'a/b' has '/'"),
    (["local", "--controller-id", "a", "--region", "x#"], "--region: controller.region: region 'x#' has '#'"),
    (["local", "--controller-id", "a", "--subnet", "10.0.0.0/8"], "more than 4096 addresses"),
    (["local", "--controller-id", "a", "--subnet", "x"], "subnet 'x'"),
    (["local", "--controller-id", "a", "--transport", "pigeon"], "must be some of mqtt, http and memory"),
    (["regional", "--controller-id", "a"], "no active key. Make one with: mqttkit controller key generate"),
    (["regional", "--controller-id", "a", "--policy", "missing.json"], "cannot read the policy in missing.json"),
    (["watch"], "the key ring is empty"),
    (["key", "activate", "x"], "no key 'x'"),
    (["key", "add", "missing"], "cannot read missing"),
])  # fmt: skip
def test_what_cannot_work_is_one_clear_line(reachable: Mosquitto, arguments: list[str], message: str) -> None:
    """Exit code 2, before anything is connected."""
    refused = run(*arguments)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1), refused.output
    assert message in refused.stderr


def test_a_key_pair_is_shared_by_its_public_half(here: Path) -> None:
    """generate --out on one machine, add on another; secrets stay, and are shown nowhere."""
    made = run(
        "key",
        "generate",
        "--kid",
        "pair",
        "--alg",
        "EdDSA",
        "--owner",
        "rc-1",
        "--role",
        "regional",
        "--out",
        "pair.json",
    )
    assert (made.exit_code, made.stdout) == (0, "pair active\n")
    assert '"d"' not in (here / "pair.json").read_text()
    added = run("key", "add", "--key-file", "other.json", "pair.json")
    assert added.stdout == "pair accepted\n"
    listed = run("key", "list", "--key-file", "other.json", "--json")
    assert json.loads(listed.stdout) == {
        **{"kid": "pair", "algorithm": "Ed25519", "status": "accepted"},
        **{"owner": "rc-1", "role": "regional", "region": "zone-A", "can_sign": "no"},
    }
    refused = run("key", "activate", "--key-file", "other.json", "pair")
    assert (refused.exit_code, "public key" in refused.stderr) == (2, True)


def test_the_example_does_what_simulate_does(reachable: Mosquitto, topic: str, here: Path) -> None:
    """Through the public API alone; without an address at the broker that `broker up` started."""
    script = ROOT / "examples" / "simulate_mqtt_pubsub.py"
    command = [sys.executable, str(script), "--port", str(reachable.port), "--base", topic]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "      received and matched"), ran.stderr
    profile = here / "state" / "mqttkit" / "brokers" / "default" / "profile.json"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        json.dumps({"name": "default", "backend": "process", "host": "127.0.0.1", "port": reachable.port})
    )
    ran = subprocess.run([*command[:2], "--base", topic], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "      received and matched"), ran.stderr
    command[3] = str(free_port())
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, "cannot reach broker" in ran.stderr) == (3, True)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_pages_commands_work(reachable: Mosquitto, here: Path) -> None:
    """Each block of docs/how-to/controller.md, as a shell runs it, with its own state.

    A controller in the background is awaited, and runs until the other commands have ended, at any machine's pace.
    """
    program = f"{sys.executable} -m mqttkit"
    online = f"until {program} controller watch --once --json --duration 0.3 | grep -q '\"online\"'; do :; done"
    for number, block in enumerate(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)):
        text = block.replace("mqttkit ", f"{program} ")
        text = re.sub("controller (policy set|request)", r"controller \1 --timeout 60", text)
        text = re.sub(r"--duration \d+ &\n", f"& trap 'kill $!' EXIT\n{online}\n", text)
        (here / "state").mkdir(exist_ok=True)
        text = f"export XDG_STATE_HOME={here}/state/{number}\n{text}"
        ran = subprocess.run(["sh", "-ec", text], capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, (block, ran.stdout, ran.stderr)


@pytest.mark.system
def test_the_pages_program_runs() -> None:
    """The Python section of the page, as it stands there."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[:3] == [
        "lc-1 found 1 devices",
        "rc-1 asks to restart 10.0.0.7",
        "{'restarted': '10.0.0.7'}",
    ]


# --- the status book ----------------------------------------------------------------------------------------


def test_a_will_counts_only_for_the_life_that_left_it(tmp_path: Path) -> None:
    """A will that comes late does not make a new life offline, an old heartbeat not an offline one online."""
    codec, topics, clock = PlainCodec(), Topics(), [1_000.0]
    book = StatusBook(topics, codec, now=lambda: clock[0])

    def heartbeats(life: LocalController) -> tuple[bytes, bytes]:
        where = topics.status("lc-1")
        return codec.wrap(life._heartbeat("offline"), where), codec.wrap(life._heartbeat("online"), where)

    settings = settings_of(tmp_path, "lc-1", unsigned=True, transports=("memory",))
    lives = []
    for _ in range(2):
        life = LocalController(settings, broker_at(1))
        lives.append(heartbeats(life))
        life.disconnect_mqtt()
    (first_will, first_beat), (second_will, second_beat) = lives
    where = topics.status("lc-1")
    for data, state in (
        *((first_beat, "online"), (first_will, "offline"), (first_beat, "offline")),
        *((second_beat, "online"), (first_will, "online"), (first_beat, "online"), (second_will, "offline")),
    ):
        book.note(where, data)
        assert book.controllers["lc-1"].state == state
    assert book.refused == {"stale": 3}
    book.note(where, b"{}")
    assert book.refused["malformed"] == 1
    book.note(where, b"")
    assert book.refused["empty"] == 1
    assert book.rows()[0]["status"] == "offline"


def test_a_controller_without_heartbeats_is_silent(tmp_path: Path) -> None:
    """Three of its own intervals."""
    codec, topics, clock = PlainCodec(), Topics(), [1_000.0]
    book = StatusBook(topics, codec, now=lambda: clock[0])
    life = LocalController(settings_of(tmp_path, "lc-1", unsigned=True, transports=("memory",)), broker_at(1))
    book.note(topics.status("lc-1"), codec.wrap(life._heartbeat("online"), topics.status("lc-1")))
    life.disconnect_mqtt()
    clock[0] += 1.4
    assert book.rows()[0]["status"] == "online"
    clock[0] += 0.2
    assert book.rows()[0]["status"] == "silent"


@pytest.mark.system
def test_watch_is_a_live_table_on_a_terminal(reachable: Mosquitto, here: Path, topic: str) -> None:
    """Drawn and drawn again, with the controllers' states; Ctrl-C ends it with 0."""
    run("key", "generate")
    keys = str(here / "state" / "mqttkit" / "controllers" / "keys.json")
    settings = settings_of(here, "lc-1", base=topic, key_file=keys)
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "mqttkit", "controller", "watch", "--quiet"]
    with LocalController(settings, broker_at(reachable.port)) as local:
        local.publish_event("hello").wait(60)
        environ = {**os.environ, "COLUMNS": "160", "LINES": "40", "TERM": "xterm"}
        with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environ) as process:
            os.close(end)
            shown = _until(terminal, b"online")
            process.send_signal(signal.SIGINT)
            rest = _until(terminal, None)
            assert process.wait(60) == 0
    os.close(terminal)
    assert b"1 controllers" in shown + rest
    assert b"lc-1" in shown + rest


def _until(terminal: int, word: bytes | None) -> bytes:
    """Read a terminal until a word comes, or until its other end is closed."""
    text = b""
    while word is None or word not in text:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, text
        try:
            text += os.read(terminal, 65_536)
        except OSError:  # the other end is closed
            assert word is None, text
            return text
    return text


def test_the_table_tells_how_often_the_transport_changed() -> None:
    """Each hop is visible."""
    from mqttkit.cli.controller.live_table import COLUMNS, cells

    row = {
        **{"controller": "lc-1", "role": "local", "region": "zone-A", "status": "online", "last_heartbeat": 1.23},
        **{"transport": "http", "hops": 3, "reports": 7, "refused": 0, "policies": {"global": 2, "zone-A": 5}},
        **{"refused_here": 2, "store_errors": 1, "applied": {"global": 2}},
    }
    shown = dict(zip(COLUMNS, cells(row), strict=True))
    assert (shown["transport"], shown["policies"]) == ("http (3 hops)", "global:2 zone-A:5!")
    assert (shown["refused"], shown["errors"]) == ("2", "1")
    assert dict(zip(COLUMNS, cells({**row, "hops": 0}), strict=True))["transport"] == "http"
