"""`mqttkit pub`."""

from __future__ import annotations

import functools
import io
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from mqttkit.cli.options.connection import Connection, terse_connection_options
from mqttkit.cli.signals import interrupts_raise
from mqttkit.client import MqttClient, checked_settings
from mqttkit.errors import Interrupted, UsageError
from mqttkit.messages import Message, Outcome, Properties
from mqttkit.publisher import Publisher
from mqttkit.topics import check_topic_name

READ_BYTES = 256 * 1024
MAX_PAYLOAD = 268_435_455
"""Bytes; MQTT 5, 2.1.4."""
IDLE_SECONDS = 0.02
"""How often outcomes are looked at while some are open and stdin has nothing new."""
INTERRUPTED_SECONDS = 1.0
"""How long a message under way may still take when the command is interrupted."""

_checked_name = functools.lru_cache(maxsize=4096)(check_topic_name)


@dataclass(frozen=True)
class Asked:
    """The options of one call, but for the connection's."""

    topic: str | None
    more_topic: str | None
    message: str | None
    file: str | None
    whole_stdin: bool
    lines: bool
    null: bool
    as_json: bool
    retain: bool
    repeat: int
    repeat_delay: float
    patience: float
    content_type: str | None
    response_topic: str | None
    correlation_data: str | None
    expiry: int | None
    user_properties: tuple[tuple[str, str], ...]
    is_utf8: bool

    def check(self) -> None:
        """Raise UsageError where options contradict each other."""
        sources = (
            self.message is not None,
            self.file is not None,
            self.whole_stdin,
            self.lines,
            self.null,
            self.as_json,
        )
        if sum(sources) != 1:
            raise UsageError("one of -m, -f, -s, -l, -n and --json says what to publish")
        if self.topic is not None and self.more_topic is not None:
            raise UsageError(f"two topics, {self.topic!r} and {self.more_topic!r}: a message goes to one")
        if self.streaming and (self.repeat != 1 or self.repeat_delay):
            raise UsageError("--repeat and --repeat-delay are for one message, not for -l and --json")

    @property
    def streaming(self) -> bool:
        """True where messages come from stdin until it ends."""
        return self.lines or self.as_json

    def payload(self) -> bytes:
        """Return the one payload of -m, -f, -s or -n."""
        if self.message is not None:
            return os.fsencode(self.message)
        if self.null:
            return b""
        payload = sys.stdin.buffer.read(MAX_PAYLOAD + 1) if self.file is None else _read_file(self.file)
        if len(payload) > MAX_PAYLOAD:
            raise UsageError(f"a payload has at most {MAX_PAYLOAD} bytes")
        return payload

    def properties(self) -> Properties | None:
        """Return the MQTT 5 properties asked for; None where none is."""
        data = self.correlation_data
        properties = Properties(
            payload_format_indicator=1 if self.is_utf8 else None,
            message_expiry_interval=self.expiry,
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation_data=None if data is None else os.fsencode(data),
            user_properties=self.user_properties,
        )
        return None if properties == Properties() else properties


@click.command()
@click.argument("topic", required=False)
@click.option("-t", "--topic", "more_topic", help="Topic name, as the argument.")
@click.option("-m", "--message", help="The payload.")
@click.option("-f", "--file", type=click.Path(), help="File whose content is the payload.")
@click.option("-s", "--stdin-file", "whole_stdin", is_flag=True, help="The whole of stdin is the payload.")
@click.option("-l", "--stdin-line", "lines", is_flag=True, help="Each line of stdin is a message, sent when read.")
@click.option("-n", "--null-message", "null", is_flag=True, help="An empty payload.")
@click.option("--json", "as_json", is_flag=True, help="Each line of stdin is a message as `sub --json` prints it.")
@click.option("-r", "--retain", is_flag=True, help="The broker keeps the message for later subscribers.")
@click.option("--repeat", type=click.IntRange(1), default=1, help="Publish so many times.")
@click.option("--repeat-delay", type=click.FloatRange(0), default=0.0, help="Seconds between two of them.")
@click.option("-W", "patience", type=click.FloatRange(0), default=30.0, help="Seconds for the broker's answers.  [30]")
@click.option("--content-type", help="MQTT 5: what the payload is, such as application/json.")
@click.option("--response-topic", help="MQTT 5: where an answer should go.")
@click.option("--correlation-data", help="MQTT 5: what the answer should carry.")
@click.option("--expiry", type=click.IntRange(0, 4_294_967_295), help="MQTT 5: seconds that the message is good for.")
@click.option("--user-property", "user_properties", type=(str, str), multiple=True, help="MQTT 5: a name and a value.")
@click.option("--utf8", "is_utf8", is_flag=True, help="MQTT 5: say that the payload is UTF-8.")
@terse_connection_options
def pub(connection: Connection, **given: Any) -> None:
    """Publish one message or a stream of them to TOPIC.

    Exit code 0 means that the broker took everything; 6 that it denied or did not acknowledge something. Where -q is
    not given a lone message goes at QoS 1, and so does the first line of -l: at QoS 0 no broker says what it denied.
    """
    asked = Asked(**given)
    asked.check()
    blocks = _blocks(asked, connection)
    retry = connection.retry and asked.streaming
    with (
        interrupts_raise(),
        MqttClient(checked_settings(connection.settings.mqtt), will=connection.will, retry=retry) as client,
    ):
        client.connect()
        _publish(client, blocks, asked)


def _publish(client: MqttClient, blocks: Iterable[Iterable[Message]], asked: Asked) -> None:
    """Publish every message; raise where one of them was not delivered."""
    sender, patience = Publisher(client), asked.patience
    try:
        for block in blocks:
            sender.send(block)
            while asked.streaming and sender.unresolved and not _stdin_ready():
                sender.settle()
    except UsageError:
        sender.finish(patience)
        raise
    except KeyboardInterrupt:
        client.flush(INTERRUPTED_SECONDS)
        published = client.stats.published  # the sender may have been interrupted between two of its counts
        delivered = published[Outcome.ACKNOWLEDGED] + published[Outcome.SENT]
        raise Interrupted(f"interrupted: {delivered} messages published") from None
    sender.finish(patience)


def _blocks(asked: Asked, connection: Connection) -> Iterable[Iterable[Message]]:
    """Return the messages to publish, in blocks of those that are ready together; raise UsageError."""
    topic = asked.topic or asked.more_topic or connection.url_topic
    if topic is not None:
        check_topic_name(topic)
    elif not asked.as_json:
        raise UsageError("no topic to publish to", hint="For example: mqttkit pub -m hello some/topic")
    configured = connection.settings.mqtt.client.qos
    qos = configured if connection.qos is None else connection.qos
    probe = max(1, qos) if connection.qos is None else qos
    message = Message(topic or "", qos=qos, retain=asked.retain, properties=asked.properties())
    if asked.as_json:
        return _json_messages(message, topic)
    if asked.lines:
        return _line_messages(message, probe)
    return _lone_messages(message._replace(payload=asked.payload(), qos=probe), asked.repeat, asked.repeat_delay)


def _lone_messages(message: Message, repeat: int, delay: float) -> Iterator[list[Message]]:
    yield [message]
    for _ in range(repeat - 1):
        time.sleep(delay)
        yield [message]


def _line_messages(message: Message, probe: int) -> Iterator[Iterable[Message]]:
    """Yield a message a line; the first one at the QoS `probe`, so that a denial is known."""
    topic, _, qos, retain, _, _, properties, _ = message
    for lines in _lines():
        if probe != qos:
            yield [message._replace(payload=lines.pop(0), qos=probe)]
            probe = qos
        yield [Message(topic, line, qos, retain, properties=properties) for line in lines]


def _json_messages(message: Message, topic: str | None) -> Iterator[Iterable[Message]]:
    """Yield the message of each line; what a line leaves out is as in `message`."""
    from mqttkit.formats.jsonlines import Defaults, from_line

    defaults = Defaults(topic, message.qos, message.retain, message.properties)
    number = 0

    def read(line: bytes) -> Message:
        nonlocal number
        number += 1
        try:
            found = from_line(line, defaults)
            _checked_name(found.topic)
        except UsageError as error:
            raise UsageError(f"line {number} of stdin: {error}") from error
        return found

    for lines in _lines():
        yield (read(line) for line in lines)


def _lines() -> Iterator[list[bytes]]:
    """Yield the lines of stdin as they come, without their line feeds; the last may lack one."""
    stream, parts = cast("io.BufferedReader", sys.stdin.buffer), []
    while chunk := stream.read1(READ_BYTES):
        head, feed, tail = chunk.rpartition(b"\n")
        if feed:
            parts.append(head)
            yield b"".join(parts).split(b"\n")
            parts = []
        if tail:
            parts.append(tail)
    if parts:
        yield [b"".join(parts)]


def _stdin_ready() -> bool:
    """Tell whether stdin can be read; wait IDLE_SECONDS for it, so that a slow producer's denials are noticed."""
    return bool(select.select([sys.stdin], [], [], IDLE_SECONDS)[0])


def _read_file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_PAYLOAD + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
