"""Sensor and gateway nodes over a real broker; the examples of docs/how-to/node.md are run here."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mqttkit.broker.lifecycle import run_temporary
from mqttkit.broker.live.accounts import change_accounts
from mqttkit.cli import cli
from mqttkit.errors import BrokerUnreachable
from mqttkit.messages import Outcome
from mqttkit.nodes import Fault, GatewayNode, Runner, Scenario, SensorFleet, SensorNode
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port
from tests.support.controllers import broker_at, eventually
from tests.support.pages import ROOT, find_page

PAGE = find_page("node.md")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    """Run `mqttkit node ...` in this process."""
    return CliRunner().invoke(cli, ["node", *arguments])


def test_the_gateway_receives_every_reading(shared_broker: TestBroker, topic: str) -> None:
    """1,000 readings of 10 sensors, as they were sent, none missing and none twice."""
    mqtt = broker_at(shared_broker.port)
    scenario = Scenario(duration=10.0, topic=f"{topic}/{{sensor_id}}", fleets=(SensorFleet(count=10, rate=10.0),))
    with GatewayNode(f"gw-{topic[-8:]}", mqtt, topic_filter=f"{topic}/#") as gateway:
        totals = Runner(scenario, mqtt, paced=False).run()
        assert gateway.wait_for(totals.sent, 60)
        rows = gateway.rows()
    assert (totals.sensors, totals.good, totals.outcomes) == (10, True, {"acknowledged": totals.sent})
    assert sum(row["count"] for row in rows) == totals.sent == len(gateway.received_messages)
    assert {(row["missing"], row["duplicates"]) for row in rows} == {(0, 0)}


def test_faults_arrive_as_what_they_are(shared_broker: TestBroker, topic: str) -> None:
    """Dropouts are missing, duplicates are told apart, the totals say both."""
    mqtt = broker_at(shared_broker.port)
    faults = (Fault(kind="dropout", at=2.0, seconds=2.0), Fault(kind="duplicates", at=6.0, seconds=1.0))
    fleet = SensorFleet(count=3, rate=20.0, faults=faults)
    scenario = Scenario(duration=10.0, topic=f"{topic}/{{sensor_id}}", fleets=(fleet,))
    with GatewayNode(f"gw-{topic[-8:]}", mqtt, topic_filter=f"{topic}/#") as gateway:
        totals = Runner(scenario, mqtt, paced=False).run()
        eventually(lambda: len(gateway.received_messages) == totals.sent)
        rows = gateway.rows()
    assert sum(row["missing"] for row in rows) == totals.dropouts > 0
    assert sum(row["duplicates"] for row in rows) == totals.duplicates > 0
    assert totals.taken == totals.sent - totals.duplicates + totals.dropouts


def test_a_sensor_that_loses_its_broker_goes_on(broker: Mosquitto) -> None:
    """What finds no connection is dropped and said; after the return readings flow again."""
    mqtt = broker_at(broker.port)
    with SensorNode("s-1", mqtt) as sensor, GatewayNode("gw-1", mqtt) as gateway:
        assert sensor.publish_reading("sensor/1", {"sensor_id": "1", "sequence": 1, "value": 1}).wait(60)
        assert gateway.wait_for(1, 60)
        broker.stop()
        eventually(lambda: not sensor.client.connected and not gateway.client.connected)
        lost = sensor.publish_reading("sensor/1", {"sensor_id": "1", "sequence": 2, "value": 2})
        assert lost.outcome is Outcome.DROPPED
        broker.start()
        assert gateway.client.wait_connected(60)
        eventually(lambda: gateway.client._subscribed.settled)
        again = sensor.publish_reading("sensor/1", {"sensor_id": "1", "sequence": 3, "value": 3}, wait=60)
        assert again.wait(60) is Outcome.ACKNOWLEDGED
        assert gateway.wait_for(2, 60)
        assert gateway.rows()[0]["missing"] == 1


@pytest.mark.parametrize("payload", [
    b"", b"{", b"[]", b"{}", b'{"sensor_id": 1, "sequence": 1, "value": 1}',
    b'{"sensor_id": "a", "sequence": true, "value": 1}', b'{"sensor_id": "a", "sequence": 1, "value": "x"}',
    b'{"sensor_id": "a", "sequence": 1, "value": NaN}', b'{"sensor_id": "a", "sequence": 1, "value": 1e999}',
    b"[" * 10_000, b'{"sensor_id": "a", "sequence": 1, "value": 1%s}' % (b"0" * 400),
    b'{"sensor_id": "a", "sequence": 1%s, "value": 1}' % (b"0" * 30),
])  # fmt: skip
def test_what_is_no_reading_is_counted_and_disturbs_nothing(
    shared_broker: TestBroker, topic: str, payload: bytes
) -> None:
    """The next reading counts."""
    mqtt = broker_at(shared_broker.port)
    with (
        SensorNode(f"s-{topic[-8:]}", mqtt) as sensor,
        GatewayNode(f"gw-{topic[-8:]}", mqtt, topic_filter=f"{topic}/#") as gateway,
    ):
        sensor.client.publish(f"{topic}/x", payload, qos=1).wait(60)
        sensor.publish_reading(f"{topic}/x", {"sensor_id": "a", "sequence": 1, "value": 1.5})
        assert gateway.wait_for(1, 60)
        assert (gateway.invalid, gateway.aggregates["a"].mean) == (1, 1.5)


def test_a_broker_that_is_not_there_is_named() -> None:
    """At once, not for ever."""
    with pytest.raises(BrokerUnreachable, match="cannot reach broker"):
        SensorNode("s", broker_at(free_port())).connect_mqtt(5)


def test_sensor_and_gateway_commands_meet(shared_broker: TestBroker, topic: str) -> None:
    """`gateway --count` ends with 0 when all have come, and prints an aggregate a sensor."""
    at = ["-h", "127.0.0.1", "-p", str(shared_broker.port)]
    command = [sys.executable, "-m", "mqttkit", "node", "gateway", "--filter", f"{topic}/#", "--count", "60", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--interval", "0.1", *at], text=True, **pipes) as gateway:
        assert gateway.stdout is not None and gateway.stderr is not None
        assert any("0 readings of 0 sensors" in line for line in gateway.stderr)
        template = f"{topic}/{{sensor_id}}"
        published = run("sensor", "--count", "3", "--rate", "500", "--readings", "60", "--topic", template, *at)
        rows = [json.loads(line) for line in gateway.stdout.read().splitlines()]
    assert gateway.returncode == 0
    assert {row["sensor_id"] for row in rows} == {"sensor-001", "sensor-002", "sensor-003"}
    totals = json.loads(published.stdout)
    assert (published.exit_code, totals["taken"], totals["outcomes"]) == (0, 60, {"acknowledged": 60})


def test_a_gateway_whose_time_runs_out_ends_with_27(shared_broker: TestBroker, topic: str) -> None:
    """As `sub -W`."""
    at = ("-h", "127.0.0.1", "-p", str(shared_broker.port), "--quiet")
    ended = run("gateway", "--filter", f"{topic}/#", "--count", "1", "--duration", "0.2", *at)
    assert (ended.exit_code, ended.stderr) == (27, "mqttkit: timed out after 0.2 s: received 0 of 1 readings\n")
    assert run("gateway", "--filter", f"{topic}/#", "--duration", "0.2", *at).exit_code == 0


@pytest.mark.system
def test_a_signal_ends_a_scenario_with_its_totals(broker: Mosquitto, here: Path) -> None:
    """SIGTERM in the middle: what was sent is acknowledged, exit code 0."""
    (here / "s.yaml").write_text("fleets: [{name: a, count: 3, rate: 50}]\n")
    command = [sys.executable, "-m", "mqttkit", "node", "run", "s.yaml", "-h", "127.0.0.1"]
    with (
        GatewayNode("gw-signal", broker_at(broker.port), topic_filter="sensor/+/temperature") as gateway,
        subprocess.Popen([*command, "-p", str(broker.port), "--quiet"], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert gateway.wait_for(50, 60)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    totals = json.loads(output)
    assert (process.returncode, totals["outcomes"]) == (0, {"acknowledged": totals["sent"]})


def test_a_dry_run_prints_the_same_readings_for_the_same_seed() -> None:
    """And connects to nothing."""
    path = str(ROOT / "examples" / "scenario.yaml")
    first, again, other = (run("run", path, "--dry-run", "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other
    lines = [json.loads(line) for line in first.splitlines()]
    assert len({line["payload"]["sensor_id"] for line in lines}) == 15
    assert any(not line["sent"] for line in lines)


@pytest.mark.parametrize(("arguments", "message"), [
    (["sensor", "--model", "taste"], "model must be one of temperature"),
    (["sensor", "--topic", "a/#"], "wildcard"),
    (["sensor", "--name", "a/b"], "fleet name 'a/b'"),
    (["sensor", "--rate", "1000000"], "rate more than 0 and at most 100000"),
    (["run", "missing.yaml"], "missing.yaml: cannot read it"),
    (["gateway", "-i", "a/b"], "node id 'a/b'"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_connecting(arguments: list[str], message: str) -> None:
    """Exit code 2."""
    refused = run(*arguments, "-h", "127.0.0.1", "-p", str(free_port()))
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output


def test_the_page_shows_the_example_as_it_is() -> None:
    """The scenario of docs/how-to/node.md is examples/scenario.yaml, and its table names each fault."""
    from mqttkit.nodes import MODELS
    from mqttkit.nodes.plan import FAULTS
    from mqttkit.nodes.waveforms import KINDS

    page = PAGE.read_text()
    assert re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0] in (ROOT / "examples" / "scenario.yaml").read_text()
    assert all(f"`{name}`" in page for name in (*FAULTS, *MODELS, *KINDS))


def test_the_pages_python_works(shared_broker: TestBroker) -> None:
    """At the shared broker's port, with a minute to wait."""
    text = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(text.replace("1883", str(shared_broker.port)).replace("timeout=10", "timeout=60"), {})
    assert "'count': 1" in told.getvalue()


@pytest.mark.system
def test_the_pages_commands_work(shared_broker: TestBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell runs them."""
    monkeypatch.setenv("MQTTKIT_PORT", str(shared_broker.port))
    monkeypatch.setenv("MQTTKIT_HOST", "127.0.0.1")
    block = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    script = block.replace("mqttkit ", f"{sys.executable} -m mqttkit ") + "wait\n"
    ran = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    assert "sensor-005" in ran.stdout


def test_a_user_with_the_role_device_publishes_readings_without_further_options(tmp_path: Path) -> None:
    """Below sensor/USER, where the role may write; the operator and anonymous users need no such level."""
    with run_temporary(backend="process") as (broker, profile):
        change_accounts(broker, lambda files: files.add("lamp", "a long pass phrase", role="device"))
        (tmp_path / "secret").write_text("a long pass phrase\n")
        place = ("-h", profile.host, "-p", str(profile.port), "-u", "lamp", "--password-file", str(tmp_path / "secret"))
        with GatewayNode("gateway", profile.settings) as gateway:
            done = run("sensor", "--count", "2", "--rate", "100", "--readings", "4", *place)
            assert done.exit_code == 0, done.output
            assert gateway.wait_for(4, 60)
            topics = {message.topic for message in gateway.received_messages}
    assert topics == {"sensor/lamp/sensor-001/temperature", "sensor/lamp/sensor-002/temperature"}
