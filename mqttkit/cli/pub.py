"""`mqttkit pub`."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.mosquitto import MosquittoCommand
from mqttkit.cli.options.numbers import COUNT, LONG_SECONDS, SECONDS
from mqttkit.cli.options.properties import topic_alias_option
from mqttkit.cli.options.texts import Bytes, Text
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.signals import interrupts_raise
from mqttkit.client import MqttClient, checked_settings
from mqttkit.errors import Interrupted, UsageError
from mqttkit.messages import Message, Outcome, Properties
from mqttkit.publisher import Publisher
from mqttkit.topics import check_topic_name

READ_BYTES = 256 * 1024
MAX_PAYLOAD = 268_435_455
"""Bytes; MQTT 5, 2.1.4."""
REPEATS = 1_000
"""Messages per block of --repeat."""
IDLE_SECONDS = 0.02
"""How often outcomes are checked while some are unknown and stdin has nothing new."""
INTERRUPTED_SECONDS = 1.0
"""How long an interrupted command waits for unacknowledged messages."""

Block = Iterable[Message] | tuple[Message, list[bytes]]
"""Messages that are ready together, or one message and the payloads to publish it with."""

_checked_name = functools.lru_cache(maxsize=4096)(check_topic_name)


@dataclass(frozen=True)
class PublishOptions:
    """The options of one call, without those of the connection."""

    topics: tuple[str, ...]
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
    correlation_data: bytes | None
    expiry: int | None
    user_properties: tuple[tuple[str, str], ...]
    is_utf8: bool
    topic_alias: int | None

    def check(self) -> None:
        """Raise UsageError if options contradict each other."""
        sources = (
            self.message is not None,
            self.file is not None,
            self.whole_stdin,
            self.lines,
            self.null,
            self.as_json,
        )
        if len(self.topics) > 1:
            raise UsageError(
                f"pub takes one topic, got {' '.join(self.topics)}",
                hint=f"Give the payload with -m: mqttkit pub -m {self.topics[1]!r} {self.topics[0]}",
            )
        if not any(sources):
            topic = self.topics[0] if self.topics else self.more_topic or "some/topic"
            raise UsageError(
                "nothing to publish: give -m, -f, -s, -l, -n or --json", hint=f"Example: mqttkit pub -m hello {topic}"
            )
        if sum(sources) > 1:
            raise UsageError("give only one of -m, -f, -s, -l, -n and --json")
        if self.topics and self.more_topic is not None:
            raise UsageError(f"pub takes one topic, got {self.topics[0]!r} and -t {self.more_topic!r}")
        if self.streaming and (self.repeat != 1 or self.repeat_delay):
            raise UsageError("--repeat and --repeat-delay do not work with -l and --json")
        if self.response_topic is not None:
            check_topic_name(self.response_topic)

    @property
    def topic(self) -> str | None:
        """The topic name, if there is one."""
        return self.topics[0] if self.topics else self.more_topic

    @property
    def streaming(self) -> bool:
        """True if messages come from stdin until it ends."""
        return self.lines or self.as_json

    @functools.cached_property
    def payload(self) -> bytes:
        """The one payload of -m, -f, -s or -n."""
        if self.message is not None:
            payload = os.fsencode(self.message)
        elif self.null:
            payload = b""
        else:
            payload = sys.stdin.buffer.read(MAX_PAYLOAD + 1) if self.file is None else _read_file(self.file)
        if len(payload) > MAX_PAYLOAD:
            raise UsageError(f"the payload has more than {MAX_PAYLOAD} bytes, the most that MQTT allows")
        return payload

    def properties(self) -> Properties | None:
        """Return the MQTT 5 properties given; None if there are none."""
        properties = Properties(
            payload_format_indicator=1 if self.is_utf8 else None,
            message_expiry_interval=self.expiry,
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation_data=self.correlation_data,
            user_properties=self.user_properties,
            topic_alias=self.topic_alias,
        )
        return None if properties == Properties() else properties


@click.command(cls=MosquittoCommand, default_qos="1; with -l 1 for the first line, then 0")
@click.argument("topics", metavar="TOPIC", nargs=-1, type=TOPIC)
@click.option("-t", "--topic", "more_topic", metavar="TOPIC", help="Topic name, instead of the argument.")
@click.option("-m", "--message", metavar="TEXT", help="The payload.")
@click.option("-f", "--file", metavar="FILE", type=click.Path(), help="Publish the content of FILE.")
@click.option("-s", "--stdin-file", "whole_stdin", is_flag=True, help="Publish all of stdin as one message.")
@click.option("-l", "--stdin-line", "lines", is_flag=True, help="Publish each line of stdin as soon as it is read.")
@click.option("-n", "--null-message", "null", is_flag=True, help="Publish an empty payload.")
@click.option("--json", "as_json", is_flag=True, help="Publish each line of stdin, in the format of `sub --json`.")
@click.option("-r", "--retain", is_flag=True, help="Make the broker keep the message for later subscribers.")
@click.option("--repeat", type=COUNT, default=1, help="Publish N times; {{n}}, {{now}}, {{random}} differ.  [1]")
@click.option("--repeat-delay", type=SECONDS, default=0.0, help="Time between two of them.  [0]")
@click.option("-W", "patience", type=SECONDS, default=30.0, help="Time for acknowledgements after the last byte.  [30]")
@click.option("--content-type", type=Text("TYPE"), help="MQTT 5: type of the payload, such as application/json.")
@click.option("--response-topic", type=Text("TOPIC"), help="MQTT 5: topic for the response.")
@click.option("--correlation-data", type=Bytes("TEXT"), help="MQTT 5: data that the response should repeat.")
@click.option("--expiry", type=LONG_SECONDS, help="MQTT 5: how long the message is valid.")
@click.option(
    "--user-property",
    "user_properties",
    type=(Text("NAME"), Text("VALUE")),
    multiple=True,
    help="MQTT 5: a name and a value; can be repeated.",
)
@click.option("--utf8", "is_utf8", is_flag=True, help="MQTT 5: mark the payload as UTF-8 text.")
@topic_alias_option
@terse_connection_options
def pub(connection: ConnectionOptions, **given: Any) -> None:
    """Publish one message or a stream of messages to TOPIC.

    Exit code 0: the broker accepted every message. 6: it denied or did not acknowledge a message.

    Without -q, a single message and the first line of -l use QoS 1: at QoS 0 a broker cannot report a denial.

    \b
    mqttkit pub -m 21.5 sensor/1
    tail -f app.log | mqttkit pub -l logs/app
    """
    options = PublishOptions(**given)
    options.check()
    blocks = _blocks(options, connection)
    retry = connection.retry and options.streaming
    with (
        interrupts_raise(),
        MqttClient(checked_settings(connection.settings.mqtt), will=connection.will, retry=retry) as client,
    ):
        client.connect()
        with _progress(options, client):
            _publish(client, blocks, options)


def _progress(options: PublishOptions, client: MqttClient) -> contextlib.AbstractContextManager[None]:
    """Show on a terminal how much of a file that is stdin, of a large payload or of --repeat has been published."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from mqttkit.cli.output.progress import progress, share_of_stdin

    share = share_of_stdin() if options.streaming else _share_sent(options, client)
    return progress(share) if share else contextlib.nullcontext()


def _share_sent(options: PublishOptions, client: MqttClient) -> Callable[[], float] | None:
    """Return how much has been sent, in messages or in bytes of the only one; None if that one is small."""
    if options.repeat > 1:
        return lambda: client.stats.published.total() / options.repeat
    size = len(options.payload)
    return (lambda: client.stats.sent_bytes / size) if size > READ_BYTES else None


def _publish(client: MqttClient, blocks: Iterable[Block], options: PublishOptions) -> None:
    """Publish every message; raise PublishFailed if one was not delivered."""
    publisher, patience = Publisher(client, lower=options.as_json), options.patience
    try:
        for block in blocks:
            if isinstance(block, tuple):
                publisher.send_block(*block)
            else:
                publisher.send(block)
            while options.streaming and publisher.unresolved and not _stdin_ready():
                publisher.settle()
    except UsageError:
        publisher.finish(patience)
        raise
    except KeyboardInterrupt:
        client.flush(INTERRUPTED_SECONDS)
        published = client.stats.published  # the publisher may have been interrupted between two of its counts
        delivered = published[Outcome.ACKNOWLEDGED] + published[Outcome.SENT]
        raise Interrupted(f"interrupted: {delivered} messages published") from None
    publisher.finish(patience)


def _blocks(options: PublishOptions, connection: ConnectionOptions) -> Iterable[Block]:
    """Return the messages to publish, in blocks that are ready together; raise UsageError."""
    topic = options.topic or connection.url_topic
    if topic is not None:
        check_topic_name(topic)
    elif not options.as_json:
        raise UsageError("no topic", hint="Example: mqttkit pub -m hello some/topic")
    configured = connection.settings.mqtt.client.qos
    qos = configured if connection.qos is None else connection.qos
    probe = max(1, qos) if connection.qos is None else qos
    message = Message(topic or "", qos=qos, retain=options.retain, properties=options.properties())
    if options.as_json:
        return _json_messages(message, topic)
    if options.lines:
        return _line_messages(message, probe)
    return _lone_messages(message._replace(payload=options.payload, qos=probe), options.repeat, options.repeat_delay)


def _lone_messages(message: Message, repeat: int, delay: float) -> Iterator[Block]:
    if repeat > 1 and (b"{{" in message.payload or "{{" in message.topic):
        yield from _numbered_messages(message, repeat, delay)
        return
    if not delay:
        for start in range(0, repeat, REPEATS):
            yield message, [message.payload] * min(REPEATS, repeat - start)
        return
    yield message, [message.payload]
    for _ in range(repeat - 1):
        time.sleep(delay)
        yield message, [message.payload]


def _numbered_messages(message: Message, repeat: int, delay: float) -> Iterator[Block]:
    """Yield messages whose {{n}}, {{now}} and {{random}} differ."""
    from mqttkit.formats.placeholders import fill

    for number in range(1, repeat + 1):
        if number > 1:
            time.sleep(delay)
        topic = fill(message.topic.encode(), number).decode()
        yield message._replace(topic=topic), [fill(message.payload, number)]


def _line_messages(message: Message, probe: int) -> Iterator[Block]:
    """Yield the lines that are ready; the first one alone at the QoS `probe`, so that the broker reports a denial."""
    first = message._replace(qos=probe)
    for lines in _lines():
        if first.qos != message.qos:
            yield first, [lines.pop(0)]
            first = message
        yield message, lines


def _json_messages(message: Message, topic: str | None) -> Iterator[Iterable[Message]]:
    """Yield the message of each line; `message` gives the keys that a line omits."""
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
    """Yield the lines of stdin as they come, without line feeds; the last one may have none.

    Raise UsageError for a line longer than MQTT allows, before memory fills.
    """
    stream, parts, size = cast("io.BufferedReader", sys.stdin.buffer), [], 0
    while chunk := stream.read1(READ_BYTES):
        head, feed, tail = chunk.rpartition(b"\n")
        if feed:
            parts.append(head)
            yield b"".join(parts).split(b"\n")
            parts, size = [], 0
        if tail:
            parts.append(tail)
            size += len(tail)
            if size > MAX_PAYLOAD:
                raise UsageError(f"a line of stdin has more than {MAX_PAYLOAD} bytes, the most that MQTT allows")
    if parts:
        yield [b"".join(parts)]


def _stdin_ready() -> bool:
    """Wait up to IDLE_SECONDS until stdin can be read; return whether it can."""
    return bool(select.select([sys.stdin], [], [], IDLE_SECONDS)[0])


def _read_file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_PAYLOAD + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
