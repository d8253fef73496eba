"""`mqttkit record` and `mqttkit replay` on a real broker."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Properties
from mqttkit.publisher import Publisher
from mqttkit.recorder.editing import write_recording
from mqttkit.recorder.lines import Gap, Header, Recorded
from mqttkit.recorder.player import Player, PlayerOptions
from mqttkit.recorder.recording import Recording
from mqttkit.settings import BrokerSettings, MqttSettings, ReconnectSettings
from mqttkit.stop import Stop
from tests.support.brokers import Mosquitto
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, invoke, mqttkit, running

pytestmark = pytest.mark.system


def settings(broker: Mosquitto) -> MqttSettings:
    """Return how to reach the broker."""
    return MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=broker.port))


def publish(broker: Mosquitto, messages: Sequence[Message]) -> None:
    """Publish and wait for the acknowledgements."""
    with MqttClient(settings(broker)) as client:
        client.connect()
        publisher = Publisher(client)
        publisher.send(messages)
        publisher.finish(30)


@contextmanager
def recording(broker: Mosquitto, path: Path, *arguments: str) -> Iterator[object]:
    """Run `mqttkit record`; the block begins once it has written the retained state."""
    command = (*MQTTKIT, "record", *arguments, "-o", str(path), "-h", "127.0.0.1", "-p", str(broker.port))
    with running(command) as process:
        wait_until(lambda: process.poll() is not None or (path.exists() and _recorded_retained(path)))
        yield process


def _recorded_retained(path: Path) -> bool:
    """Return True once the file has its second frame."""
    from mqttkit.errors import RecordingError
    from mqttkit.recorder.seekable import SeekableFile

    try:
        with SeekableFile(path) as file:
            return len(file.frames) >= 2 and file.frames[1].complete
    except RecordingError:
        return False


def received(path: Path) -> list[Message]:
    """Return the messages of a recording."""
    with Recording(path) as source:
        return [recorded.message._replace(mid=0, epoch=0) for recorded in source.messages()]


def part_of(path: Path) -> int:
    """Return the number of a file in its recording."""
    with Recording(path) as source:
        return source.header.part


def topic_of(message: Message) -> str:
    """Return what to sort by."""
    return message.topic


def wait_for_messages(path: Path, count: int) -> None:
    """Wait until that many messages are in the file."""
    wait_until(lambda: len(received(path)) >= count)


def test_a_recording_keeps_every_message_as_it_was(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """Payload bytes, QoS, retain flag, properties; the retained state of the start is separate."""
    properties = Properties(content_type="a/b", user_properties=(("k", "v"), ("k", "w")), correlation_data=b"\xff")
    old = Message(f"{topic}/state", b"old", 1, retain=True)
    sent = [
        Message(f"{topic}/1", b"\x00\xff", 0),
        Message(f"{topic}/2", b"two", 1, properties=properties),
        Message(f"{topic}/state", b"new", 2, retain=True),
        Message(f"{topic}/3", b"", 1),
    ]
    publish(broker, [old])
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#") as process:
        publish(broker, sent)
        wait_for_messages(path, len(sent))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert sorted(received(path), key=topic_of) == sorted(
        sent, key=topic_of
    )  # MQTT orders messages of one topic and one QoS only
    with Recording(path) as source:
        assert [each.message for each in source.retained()] == [old]
        assert source.finished


def test_a_killed_recorder_loses_at_most_a_second(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """SIGKILL: everything that came more than a second before it is readable."""
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#") as process:
        publish(broker, [Message(f"{topic}/n", str(number).encode(), 1) for number in range(5_000)])
        time.sleep(1.0)  # the promise is about time: what is older than a second
        process.kill()
        process.wait(60)
    assert [message.payload for message in received(path)] == [str(number).encode() for number in range(5_000)]
    with Recording(path) as source:
        assert not source.finished


def test_replay_verifies_that_what_arrives_equals_the_recording(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """With --verify, on renamed topics, as fast as possible."""
    path = tmp_path / "a.jsonl.zst"
    sent = [Message(f"{topic}/{number % 7}", str(number).encode(), number % 3) for number in range(3_000)]
    with recording(broker, path, f"{topic}/#", "-C", "3000") as process:
        publish(broker, sent)
        assert process.wait(60) == 0
    result = invoke(
        *("replay", str(path), "--speed", "max", "--verify", "--json", "--map", f"{topic}/(.*)={topic}/copy/$1"),
        port=broker.port,
    )
    report = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert report["differences"] == {"equal": 3_000, "missing": 0, "changed": 0, "unexpected": 0}


def test_verification_notices_what_somebody_else_publishes(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """A foreign message on a topic of the recording is a difference: exit code 6."""
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#", "-C", "2") as process:
        publish(broker, [Message(f"{topic}/a", b"1", 1)])
        time.sleep(2.0)  # the recording's own pace: room for the foreign message between the two
        publish(broker, [Message(f"{topic}/a", b"2", 1)])
        assert process.wait(60) == 0
    command = (*MQTTKIT, "replay", str(path), "--verify", "-h", "127.0.0.1", "-p", str(broker.port))
    before = broker.log.count(f"{topic}/a")
    with running(command) as process:
        wait_until(lambda: broker.log.count(f"{topic}/a") >= before + 3)  # SUBSCRIBE, PUBLISH in, PUBLISH out
        publish(broker, [Message(f"{topic}/a", b"foreign", 1)])
        _, diagnostics = process.communicate(timeout=60)
    assert process.returncode == 6, diagnostics
    assert b"differs from the recording" in diagnostics


def test_replay_keeps_the_pace_times_the_speed(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """A second of recording at twice the speed takes half a second; lateness does not add up."""
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#", "-C", "5") as process, MqttClient(settings(broker)) as client:
        client.connect()
        for number in range(5):
            client.publish(f"{topic}/a", str(number).encode(), qos=1).wait(5)
            time.sleep(0.25)  # the pace that is recorded
        assert process.wait(60) == 0
    with Recording(path) as source:
        times = [each.monotonic_ns for each in source.messages()]
    result = invoke("replay", str(path), "--speed", "2", "--json", port=broker.port)
    report = json.loads(result.stdout)
    with Recording(path) as source:
        offset = (times[-1] - source.header.monotonic_ns) / 1e9 / 2
    assert offset <= report["seconds"] < offset + 5
    assert (report["sent"], report["failed"]) == (5, 0)


def test_from_restores_the_retained_state_of_that_moment(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """The state at the start, and what changed it before the starting point."""
    path = tmp_path / "a.jsonl.zst"
    publish(broker, [Message(f"{topic}/x", b"x0", 1, True), Message(f"{topic}/y", b"y0", 1, True)])
    with recording(broker, path, f"{topic}/#", "-C", "3") as process:
        publish(broker, [Message(f"{topic}/x", b"x1", 1, True), Message(f"{topic}/y", b"", 1, True)])
        wait_for_messages(path, 2)
        time.sleep(0.3)  # the recording's own time goes on
        publish(broker, [Message(f"{topic}/x", b"x2", 1, True)])
        assert process.wait(60) == 0
    with Recording(path) as source:
        last = [each.monotonic_ns for each in source.messages()][-1]
        start = (last - source.header.monotonic_ns) / 1e9 - 0.1
    result = invoke(
        *("replay", str(path), "--from", f"{start:.3f}", "--speed", "max", "--json"),
        *("--map", f"{topic}/(.*)={topic}/new/$1"),
        port=broker.port,
    )
    assert result.returncode == 0, result.stderr
    assert (json.loads(result.stdout)["restored"], json.loads(result.stdout)["sent"]) == (1, 1)
    shown = invoke("sub", "--retained-only", "-v", f"{topic}/new/#", port=broker.port)
    assert shown.stdout.decode().splitlines() == [f"{topic}/new/x x2"]


def test_a_lost_connection_is_a_gap_and_exit_code_6(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """The recorder goes on when the broker is back."""
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#", "-C", "2") as process:
        publish(broker, [Message(f"{topic}/a", b"1", 1)])
        wait_for_messages(path, 1)
        broker.stop()
        broker.start()
        wait_until(lambda: "mqttkit-" in broker.log.rsplit("mosquitto version", 1)[-1], 60)
        while process.poll() is None:
            publish(broker, [Message(f"{topic}/a", b"2", 1)])
            time.sleep(0.2)  # until the subscription is there again
        assert process.returncode == 6
    with Recording(path) as source:
        entries = list(source.entries())
    assert [type(entry) for entry in entries] == [Recorded, Gap, Recorded]
    assert next(entry for entry in entries if isinstance(entry, Gap)).reason == "disconnected"


def test_rotation_starts_new_files_and_keeps_the_newest(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """--max-size with --keep; each file is a recording of its own, with the retained state of its start."""
    path = tmp_path / "a.jsonl.zst"
    state = Message(f"{topic}/state", b"on", 1, retain=True)
    publish(broker, [state])
    arguments = ("-C", "300", "--max-size", "256k", "--keep", "2")
    with recording(broker, path, f"{topic}/#", *arguments) as process:
        publish(broker, [Message(f"{topic}/a", os.urandom(5_000) + str(number).encode(), 1) for number in range(300)])
        assert process.wait(60) == 0
    files = {part_of(each): each for each in tmp_path.glob("a*.jsonl.zst")}
    parts = {number: received(each) for number, each in files.items()}
    assert len(parts) == 2
    newest = max(parts)
    assert newest >= 3
    for file in files.values():
        with Recording(file) as source:
            assert [each.message for each in source.retained()] == [state]
    assert parts[newest][-1].payload.endswith(b"299")
    assert len(parts[newest - 1]) > 1


def test_cut_and_merge_put_a_recording_together_again(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """Two halves, merged, are the whole."""
    path, first, second, whole = (tmp_path / f"{name}.jsonl.zst" for name in ("a", "b", "c", "d"))
    with recording(broker, path, f"{topic}/#", "-C", "100") as process:
        publish(broker, [Message(f"{topic}/a", str(number).encode(), 1) for number in range(50)])
        time.sleep(0.3)  # a place to cut
        publish(broker, [Message(f"{topic}/a", str(number).encode(), 1) for number in range(50, 100)])
        assert process.wait(60) == 0
    with Recording(path) as source:
        moments = [each.monotonic_ns - source.header.monotonic_ns for each in source.messages()]
    place = f"{(moments[49] + moments[50]) / 2e9:.6f}"
    for arguments in (
        ("cut", str(path), "-o", str(first), "--to", place),
        ("cut", str(path), "-o", str(second), "--from", place),
        ("merge", str(second), str(first), "-o", str(whole)),
    ):
        assert invoke("record", *arguments).returncode == 0
    assert [len(received(each)) for each in (first, second)] == [50, 50]
    assert received(whole) == received(path)
    info = json.loads(invoke("record", "info", "--json", str(whole)).stdout)
    assert (info["messages"], info["topics"], info["finished"]) == (100, 1, True)


def test_export_prints_what_sub_prints(broker: Mosquitto, tmp_path: Path, topic: str) -> None:
    """JSON lines that `pub --json` reads back, and CSV."""
    path = tmp_path / "a.jsonl.zst"
    with recording(broker, path, f"{topic}/#", "-C", "2") as process:
        publish(broker, [Message(f"{topic}/a", b'say "hi", twice', 1), Message(f"{topic}/b", b"\xff", 1)])
        assert process.wait(60) == 0
    lines = invoke("record", "export", str(path))
    assert [set(json.loads(line)) for line in lines.stdout.splitlines()] == [
        {"timestamp", "topic", "qos", "retain", "payload"},
        {"timestamp", "topic", "qos", "retain", "payload_base64"},
    ]
    assert mqttkit("pub", "--json", stdin=lines.stdout, port=broker.port).returncode == 0
    table = invoke("record", "export", "--format", "csv", str(path)).stdout.decode().splitlines()
    assert table[0] == "received,received_ns,topic,qos,retain,payload"
    assert table[1].endswith(f'{topic}/a,1,0,"say ""hi"", twice"')


def sample(path: Path) -> list[Message]:
    """Write a recording of three messages, and return them."""
    messages = [Message("a/b", b"1", 1), Message("c", 'ü, "x"\n'.encode(), 0), Message("a/b", b"2", 1, True)]
    header = Header(1_700_000_000_000_000_000, 5_000_000_000, "localhost:1883", 5, ("#",), 2)
    entries = [
        Recorded(message, header.started_ns + number * 1_000_000, header.monotonic_ns + number * 1_000_000)
        for number, message in enumerate(messages, 1)
    ]
    write_recording(path, header, (), iter(entries))
    return messages


@pytest.mark.parametrize("kind", ["ndjson", "csv", "mcap"])
def test_export_and_import_keep_messages_and_times(tmp_path: Path, kind: str) -> None:
    """Topic, payload, QoS, retain flag; times to the microsecond. MCAP keeps the flags of a topic's first message."""
    path, other, back = tmp_path / "a.jsonl.zst", tmp_path / f"a.{kind}", tmp_path / "b.jsonl.zst"
    messages = sample(path)
    exported = invoke("record", "export", str(path), "--format", kind, "-o", str(other))
    assert exported.returncode == 0, exported.stderr
    imported = invoke("record", "import", str(other), "--format", kind, "-o", str(back))
    assert imported.returncode == 0, imported.stderr
    with Recording(back) as source:
        found = list(source.messages())
    expected = messages if kind != "mcap" else [*messages[:2], messages[2]._replace(retain=False)]
    assert [each.message for each in found] == expected
    assert [each.monotonic_ns - found[0].monotonic_ns for each in found] == [0, 1_000_000, 2_000_000]


@pytest.mark.parametrize(
    ("kind", "content", "complaint"),
    [
        ("ndjson", b'{"topic":"a","payload":"x","timestamp":"2026-01-11T10:30:45.1Z"}\n{"topic":1}\n', ":2:"),
        ("ndjson", b'{"topic":"a","payload":"x"}\n', "not a time"),
        ("csv", b"received,topic\nx,y\n", ":2:"),
        ("csv", b"\xff\xfe", "not CSV"),
        ("mcap", b"hello", "not an MCAP file"),
    ],
)
def test_a_damaged_import_names_the_place(tmp_path: Path, kind: str, content: bytes, complaint: str) -> None:
    """And makes no traceback."""
    (tmp_path / "in").write_bytes(content)
    done = invoke("record", "import", str(tmp_path / "in"), "--format", kind, "-o", str(tmp_path / "b.jsonl.zst"))
    text = done.stderr.decode()
    assert (done.returncode, complaint in text, "Traceback" in text) == (2, True, False), text


def test_pause_on_disconnect_stops_the_clock(broker: Mosquitto, tmp_path: Path) -> None:
    """A message that is due during an outage leaves as late after it as it was due before."""
    path = tmp_path / "a.jsonl.zst"
    header = Header(1_700_000_000_000_000_000, 0, "localhost:1883", 5, ("#",), 2)
    entries = [Recorded(Message("t", b"x", 1), 1, number * 400_000_000) for number in range(1, 6)]
    write_recording(path, header, (), iter(entries))
    stop = Stop()
    with MqttClient(
        replace(settings(broker), reconnect=ReconnectSettings(initial_delay=0.05, max_delay=0.1))
    ) as client:
        client.connect()
        player = Player(client, PlayerOptions(pause_on_disconnect=True))
        played = threading.Thread(target=player.play, args=([path], stop))
        played.start()
        wait_until(lambda: player.report.sent >= 1)
        broker.stop()
        time.sleep(1.5)  # the length of the outage
        broker.start()
        played.join(30)
    assert player.report.sent == 5
    assert player.report.seconds > 3.0
    assert player.report.lateness.quantile(0.75) < 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("record", "-o", "x.jsonl.zst"), 2, "no topic filter"),
        (("record", "a/#"), 2, "--output"),
        (("record", "a/#", "-o", "x", "--max-size", "big"), 2, "not a size"),
        (("replay", "none.jsonl.zst"), 2, "cannot read none.jsonl.zst"),
        (("replay", "text.txt"), 2, "not a zstd file"),
        (("replay", "text.txt", "--speed", "0"), 2, "not a number above 0"),
        (("record", "info", "text.txt"), 2, "not a zstd file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], code: int, complaint: str) -> None:
    """Without a traceback, and with the exit code for wrong usage."""
    (tmp_path / "text.txt").write_text("hello")
    result = invoke(*arguments, port=None if arguments[1] == "info" else 1, cwd=tmp_path)
    text = result.stderr.decode()
    assert (result.returncode, complaint in text, "Traceback" in text) == (code, True, False), text
