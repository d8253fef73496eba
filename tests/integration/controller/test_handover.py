"""A report is delivered when its addressee says so; until then its sender keeps it, over a restart too."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from mqttkit.client import MqttClient
from mqttkit.controller import LocalController, MemoryBus, RegionalController
from mqttkit.controller.handover.pending import PendingMessage
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.security.gate import PlainCodec, SignedCodec
from mqttkit.controller.security.keys import KeyFile
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.errors import PublishFailed
from mqttkit.messages import Subscription
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, eventually, make_keys, settings_of

PENDING = "mqttkit.controller.handover.pending.RECEIPT_SECONDS"


class Bus:
    """Controllers on one in-process bus."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self.stack, self.bus = directory, stack, MemoryBus()
        self.controllers: dict[str, LocalController] = {}

    def local(self, **options: Any) -> LocalController:
        """Start a local controller."""
        local = LocalController(self._settings("lc-1"), broker_at(1), bus=self.bus, **options)
        self.stack.callback(local.disconnect_mqtt, flush=0)
        local.connect_mqtt(0)
        self.controllers["lc-1"] = local
        return local

    def regional(self) -> RegionalController:
        """Start a regional controller that does not subscribe to reports yet."""
        regional = RegionalController(self._settings("rc-1"), broker_at(1), bus=self.bus)
        self.stack.callback(regional.disconnect_mqtt, flush=0)
        regional.connect_mqtt(0)
        return regional

    def _settings(self, name: str) -> Any:
        return settings_of(self.directory, name, transports=("memory",), heartbeat_interval=30.0)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """An empty bus."""
    with ExitStack() as stack:
        yield Bus(tmp_path, stack)


def test_report_waits_until_receipts_can_arrive(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt that came before the SUBACK would be lost, and the report repeated after 10 s."""
    subscribe, answered = MqttTransport._subscribe_now, threading.Event()

    def slow(transport: MqttTransport, topic_filter: str) -> None:
        if "/receipts/" in topic_filter:
            answered.wait()
        subscribe(transport, topic_filter)

    monkeypatch.setattr(MqttTransport, "_subscribe_now", slow)
    with ExitStack() as stack:
        stack.callback(answered.set)
        regional, local = (
            role(settings_of(tmp_path, name, keep_session=False), broker_at(broker.port))
            for role, name in ((RegionalController, "rc-1"), (LocalController, "lc-1"))
        )
        stack.callback(regional.disconnect_mqtt, flush=0)
        stack.callback(local.disconnect_mqtt, flush=0)
        broker.stop()
        assert not local.connect_mqtt(0)  # so it subscribes when it has connected
        broker.start()
        assert regional.connect_mqtt(60)
        regional.subscribe_to_discovery_reports()
        _, promise = local.report_devices([{"mac": "aa", "name": "lamp"}])
        for name in ("seen", "again"):  # the sender has had its chance to send the report before the second
            assert local.publish_event(name).wait(60)
        assert not promise.taken_by
        answered.set()
        assert promise.wait(60)
        assert promise.ok
        assert (regional.report_count, local.status()["unanswered"]) == (1, 0)


def test_a_monitor_that_subscribes_to_everything_is_not_the_addressee(
    tmp_path: Path, broker: Mosquitto, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken by the broker is not delivered; the promise is good once the regional controller has the report."""
    monkeypatch.setattr(PENDING, 0.5)
    mqtt = broker_at(broker.port)
    with ExitStack() as stack:
        monitor = stack.enter_context(MqttClient(mqtt))
        monitor.connect(timeout=60)
        monitor.subscribe(Subscription(f"{topic}/#"))
        local = LocalController(settings_of(tmp_path, "lc-1", base=topic, keep_session=False), mqtt)
        stack.callback(local.disconnect_mqtt, flush=0)
        assert local.connect_mqtt(60)
        promise = local.publish_discovery_report({"devices": []})
        eventually(lambda: promise.taken_by == "mqtt")
        eventually(lambda: local.status()["unanswered"] >= 1)
        assert (promise.done, local.unsent) == (False, 1)
        with pytest.raises(PublishFailed, match="mqtt took the report of lc-1, but no receipt came"):
            local.run_discovery_cycle(timeout=3)
        regional = RegionalController(settings_of(tmp_path, "rc-1", base=topic, keep_session=False), mqtt)
        stack.callback(regional.disconnect_mqtt, flush=0)
        assert regional.connect_mqtt(60)
        regional.subscribe_to_discovery_reports()
        assert promise.wait(60) and promise.ok
        assert local.flush(60)
        assert regional.report_count == 2


def test_a_report_that_was_handled_before_gets_a_receipt_again(bus: Bus) -> None:
    """The first receipt may be lost; the report is handled once."""
    regional = bus.regional()
    regional.subscribe_to_discovery_reports()
    lost: list[Any] = []
    regional._receiver._receipts._send = lambda address, receipt: lost.append((address, receipt))
    local = bus.local()
    local._sender.close(flush=0)
    first = Envelope(
        message_id=new_message_id(), message_type="discovery.report", sender_id="lc-1", region="zone-A",
        timestamp=int(time.time() * 1000), sequence=1, payload={"devices": []},
    )  # fmt: skip
    topic = local.topics.discovery("zone-A", "lc-1")
    for count in (1, 2):
        local.transports[0].send(topic, local._codec.wrap(first, topic), qos=1, retain=False)
        eventually(lambda count=count: len(lost) == count)
    assert [receipt.handled for _, receipt in lost] == [[first.message_id]] * 2
    assert regional.status()["counters"]["duplicate"] == 1


def test_reports_survive_a_killed_sender(bus: Bus) -> None:
    """SIGKILL with 47 unsent reports; after a restart all of them arrive, once."""
    make_keys(bus.directory)
    code = f"""
import os, signal
from pathlib import Path
from mqttkit.controller import LocalController, MemoryBus
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, settings_of
settings = settings_of(Path({str(bus.directory)!r}), "lc-1", transports=("memory",))
local = LocalController(settings, broker_at(1), bus=MemoryBus())
local.connect_mqtt(0)
for number in range(47):
    local.publish_discovery_report({{"devices": [], "number": number}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    seen: list[int] = []
    bus.regional().subscribe_to_discovery_reports(lambda report: seen.append(report.payload["number"]))
    local = bus.local()
    assert local.flush(60)
    assert seen == list(range(47))
    local.disconnect_mqtt()
    assert bus.local().unsent == 0


def test_a_wrong_clock_keeps_the_report_and_is_named(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """The regional controller refuses the report; it is not lost, and not a dead letter."""
    bus.regional().subscribe_to_discovery_reports()
    slow = SignedCodec(KeyFile(make_keys(bus.directory)), now=lambda: time.time() - 1_000)
    local = bus.local(codec=slow)
    promise = local.publish_discovery_report({"devices": []})
    eventually(lambda: "rc-1 refuses the reports of this controller (expired); correct the clock" in caplog.text)
    assert (promise.done, local.unsent, local._store.dead_letters()) == (False, 1, [])


def test_a_sender_with_a_wrong_clock_holds_its_reports_back(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipts show the addressee's clock; one report at a time tries whether the clock is right again."""
    monkeypatch.setattr(PENDING, 0.3)
    regional = bus.regional()
    regional.subscribe_to_discovery_reports()
    wrong = [1_000.0]
    local = bus.local(codec=SignedCodec(KeyFile(make_keys(bus.directory)), now=lambda: time.time() - wrong[0]))
    local.publish_discovery_report({"devices": []})
    eventually(lambda: local.clock_error)
    text = r"the clock of this machine is \d+ s behind that of rc-1, the limit is 300 s"
    assert re.fullmatch(text, local.clock_error)
    refused = regional.status()["counters"]["refused_expired"]
    for _ in range(50):
        local.publish_discovery_report({"devices": []})
    with pytest.raises(PublishFailed, match="the clock of this machine is"):
        local.run_discovery_cycle(timeout=0.3)
    eventually(lambda: regional.status()["counters"]["refused_expired"] > refused)
    assert regional.status()["counters"]["refused_expired"] < refused + 40
    assert local.unsent == 52
    wrong[0] = 0.0
    assert local.flush(60)
    assert (regional.report_count, local.clock_error) == (52, "")


def test_an_unsigned_report_that_waited_too_long_is_a_dead_letter(bus: Bus) -> None:
    """It is as old as it says, so the receiver would refuse it for ever."""
    local = bus.local(codec=PlainCodec())
    report = replace(local._envelope("discovery.report", {"devices": []}), timestamp=int((time.time() - 400) * 1_000))
    promise = local._sender.put(
        PendingMessage(report, local.topics.discovery("zone-A", "lc-1"), retain=False, needs_receipt=True)
    )
    assert promise.wait(60) and not promise.ok
    assert re.match(r"expired: it is 4\d\d s old", promise.reason)
    assert len(local._store.dead_letters()) == 1


def test_a_refusal_for_good_settles_the_report_and_keeps_it_at_both_ends(bus: Bus) -> None:
    """The reason is in the promise; both stores have a dead letter."""
    regional = bus.regional()
    regional.subscribe_to_discovery_reports()
    local = bus.local()
    refused = local._publish(
        "discovery.report", local.topics.discovery("zone-A", "lc-1"), {"no": 1}, needs_receipt=True
    )
    assert refused.wait(60) and not refused.ok
    assert refused.reason == "refused by rc-1: malformed"
    assert [reason for _, _, reason in local._store.dead_letters()] == ["refused by rc-1: malformed"]
    ((_, _, reason),) = regional._store.dead_letters()
    assert reason.startswith("refused, malformed")


def test_a_batch_whose_output_is_not_written_is_not_acknowledged(bus: Bus) -> None:
    """No receipt, nothing remembered: the report comes again."""
    regional = bus.regional()
    handled: list[Any] = []
    regional.subscribe_to_discovery_reports(handled.append, flush=lambda: len(handled) == 2)
    local = bus.local()
    promise = local.publish_discovery_report({"devices": []})
    assert promise.wait(60) and promise.ok
    assert len(handled) == 2
    assert regional.status()["counters"]["handled"] == 1


def test_a_stdout_that_nobody_reads_holds_the_broker_back(tmp_path: Path, broker: Mosquitto, topic: str) -> None:
    """Memory is bounded, SIGTERM works, and no report is missing in the output of the next run."""
    settings = settings_of(tmp_path, "lc-1", base=topic)
    command = [
        *(sys.executable, "-m", "mqttkit", "controller", "regional", "--controller-id", "rc-1", "--base", topic),
        *("-p", str(broker.port), "--key-file", str(settings.key_file), "--state-file", str(tmp_path / "r.db")),
    ]
    with ExitStack() as stack, LocalController(settings, broker_at(broker.port)) as local:
        blocked = _start(stack, command)
        local.publish_discovery_report({"devices": [], "number": -1}).wait(60)
        before = psutil.Process(blocked.pid).memory_info().rss
        for number in range(1_100):
            local.publish_discovery_report({"devices": ["x" * 10_000], "number": number})
        eventually(lambda: local.taken >= 900)
        grown = psutil.Process(blocked.pid).memory_info().rss - before
        assert grown < 40e6
        blocked.send_signal(signal.SIGTERM)
        blocked.wait(60)
        assert blocked.stdout is not None
        lines = blocked.stdout.read().splitlines()
        again = _start(stack, command)
        assert again.stdout is not None
        first = [json.loads(line) for line in lines if line.endswith(b"}")]
        found = {line["message_id"]: line for line in first}
        while len(found) < 1_101:
            line = json.loads(again.stdout.readline())
            assert line["message_id"] not in found or line["redelivered"]
            found[line["message_id"]] = line
        again.send_signal(signal.SIGTERM)
        assert again.wait(60) == 0
    assert {line["number"] for line in found.values()} == set(range(-1, 1_100))


def _start(stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that ends with the stack, whatever happens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    stack.callback(process.wait, 60)
    stack.callback(process.kill)
    return process


def test_every_report_is_printed_over_six_kills(tmp_path: Path, broker: Mosquitto, topic: str) -> None:
    """SIGKILL of the regional controller under load: none is missing on stdout, and copies are marked."""
    settings = settings_of(tmp_path, "lc-1", base=topic)
    command = [
        *(sys.executable, "-m", "mqttkit", "controller", "regional", "--controller-id", "rc-1", "--base", topic),
        *("-p", str(broker.port), "--key-file", str(settings.key_file), "--state-file", str(tmp_path / "r.db")),
    ]
    printed: list[dict[str, Any]] = []
    with ExitStack() as stack, LocalController(settings, broker_at(broker.port)) as local:
        sent = 0
        for kill in range(7):
            process = _start(stack, command)
            assert process.stdout is not None
            for _ in range(150):
                local.publish_discovery_report({"devices": [], "number": sent})
                sent += 1
            lines = [process.stdout.readline() for _ in range(20)]
            if kill < 6:
                process.kill()
                lines += process.stdout.read().splitlines()
            else:
                while len({line["number"] for line in printed} | _numbers(lines)) < sent:
                    lines.append(process.stdout.readline())
                assert local.flush(60)
            printed += [json.loads(line) for line in lines if line.rstrip().endswith(b"}")]
    assert {line["number"] for line in printed} == set(range(sent))
    seen: set[str] = set()
    for line in printed:
        assert line["message_id"] not in seen or line["redelivered"]
        seen.add(line["message_id"])


def _numbers(lines: list[bytes]) -> set[int]:
    return {json.loads(line)["number"] for line in lines}


def test_dead_letters_are_shown_decoded_and_deleted(bus: Bus, tmp_path: Path) -> None:
    """With their reasons; `decode` verifies the signature and prints the envelope."""
    bus.regional().subscribe_to_discovery_reports()
    topic = bus.local().topics.discovery("zone-A", "lc-1")
    bus.controllers["lc-1"]._publish("discovery.report", topic, {"no": 1}, needs_receipt=True).wait(60)
    store = ["--state-file", str(tmp_path / "rc-1.db")]
    shown = run("dead-letters", *store)
    assert (shown.exit_code, "refused, malformed" in shown.stdout) == (0, True)
    letter = json.loads(run("dead-letters", "--json", "--delete", *store).stdout)
    assert run("dead-letters", "--json", *store).stdout == ""
    (tmp_path / "message").write_text(letter["message"])
    keys = ["--key-file", str(make_keys(tmp_path)), str(tmp_path / "message")]
    decoded = json.loads(run("decode", "--topic", letter["topic"], *keys).stdout)
    assert (decoded["sender_id"], decoded["payload"], decoded["key"]) == ("lc-1", {"no": 1}, "k1")
    moved = run("decode", "--topic", "pdsno/discovery/zone-A/lc-2", *keys)
    assert (moved.exit_code, "signed for topic" in moved.stderr) == (1, True)
    missing = run("dead-letters", "--state-file", str(tmp_path / "none.db"))
    assert (missing.exit_code, "there is no state file" in missing.stderr) == (2, True)


def run(*arguments: str) -> Any:
    """Run `mqttkit controller ...` in this process."""
    return CliRunner().invoke(cli, ["controller", *arguments])


def test_messages_of_a_restored_session_wait_for_the_handler(
    tmp_path: Path, broker: Mosquitto, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker delivers them with the connection, before the controller subscribes again."""
    monkeypatch.setattr("mqttkit.controller.held_messages.HOLD_SECONDS", 600.0)
    mqtt = broker_at(broker.port)
    with LocalController(settings_of(tmp_path, "lc-1", base=topic), mqtt) as local:
        settings = settings_of(tmp_path, "rc-1", base=topic)
        with RegionalController(settings, mqtt) as first:
            first.subscribe_to_discovery_reports()
            assert local.publish_discovery_report({"devices": []}).wait(60)
        kept = [local.publish_discovery_report({"devices": [], "number": number}) for number in range(20)]
        eventually(lambda: all(promise.taken_by for promise in kept))
        seen: list[int] = []
        with RegionalController(settings, mqtt) as second:
            eventually(lambda: len(second._held._held) == 20)
            second.subscribe_to_discovery_reports(lambda report: seen.append(report.payload["number"]))
            eventually(lambda: all(promise.ok for promise in kept))
            assert seen == list(range(20))
