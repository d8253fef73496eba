"""Compare formats with the real mosquitto_sub: the same messages give the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.formats import Formatter, payload_formatter, verbose_formatter
from mqttkit.formats.template import NotJson, template_formatter
from mqttkit.messages import Message, Subscription
from mqttkit.subscriber import ReadOptions, Subscriber
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, need
from tests.support.clients import settings_for, wait_until
from tests.support.commands import running
from tests.support.probe import Probe

WHEN = 1_768_127_445_123_456_789
END = "\\0end\\0"
PAYLOADS = (
    *(b"plain", '{"t": 21.5, "é": [1, 2]}'.encode(), b"27", b'"quoted \\" \\u00e9"', b"a\tb\nc\\"),
    *(b"\xff\xfe", b"x" * 300),
)


def full() -> PahoProperties:
    """Return a value for each property that an application sends."""
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("k", "v"), ("l", "w")]
    properties.CorrelationData = b"corr"
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answer/here"
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 600
    return properties


def both(
    broker: Mosquitto, topic: str, payloads: tuple[bytes, ...], levels: tuple[int, ...], *options: str
) -> tuple[bytes, bytes, list[Message]]:
    """Return what mosquitto_sub writes on stdout and stderr, and the same messages as mqttkit receives them."""
    count = len(payloads) * len(levels)
    place = ("-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-q", "2", "-i", topic[-12:])
    command = (need("mosquitto_sub"), *place, "-t", f"{topic}/#", "-C", str(count), "-W", "60", *options)
    with (
        Subscriber(settings_for(broker.port), [Subscription(f"{topic}/#", qos=2)]) as subscriber,
        running(command) as process,
        Probe(broker.port) as probe,
    ):
        wait_until(lambda: f"Sending SUBACK to {topic[-12:]}" in broker.log)
        for number, payload in enumerate(payloads):
            for qos in levels:
                properties: Any = full() if (number + qos) % 2 else None
                probe.client.publish(f"{topic}/é/{number}", payload, qos, properties=properties)
        probe.pump(lambda: process.poll() is not None)
        output, errors = process.communicate(timeout=60)
        batches = subscriber.batches(ReadOptions(count=count, seconds=60))
        messages = [message for batch in batches for message in batch.messages]
    return output, errors, messages


def ours(formatter: Formatter, messages: list[Message]) -> tuple[bytes, int]:
    """Return what mqttkit writes, and how many messages it cannot write."""
    parts, failures = [], 0
    for message in messages:
        try:
            parts.append(formatter([message], WHEN))
        except NotJson:
            failures += 1
    return b"".join(parts), failures


def layout(text: bytes) -> list[bytes]:
    """Return the lines of JSON without the time stamp, as sets: the order of properties differs."""
    lines = text.splitlines() if b"\n" in text else []
    return sorted(line.rstrip(b",") for line in lines if b"tst" not in line)


@pytest.mark.parametrize("options", [(), ("-v",), ("-N",), ("-v", "-N")])
def test_plain_formats_are_mosquitto_sub_s(shared_broker: TestBroker, topic: str, options: tuple[str, ...]) -> None:
    """Payloads with and without topics and line feeds."""
    output, _, messages = both(shared_broker, topic, PAYLOADS, (0,), *options)
    make = verbose_formatter if "-v" in options else payload_formatter
    assert ours(make(b"" if "-N" in options else b"\n"), messages)[0] == output


@pytest.mark.parametrize(
    "template",
    [
        "%t|%p|%q|%r|%l|%x|%X|%%",
        "%A|%C|%D|%E|%F|%P|%R|%S",
        "%30t|%-30t|%.3t|%-10.3t|%030t",
        "%20l|%020l|%-20l|%3l",
        "%12C|%-12C|%.2C|%12E|%012E|%-12E|%3F|%-3F|%.4R",
        "@@|\\\\|\\a|\\e|\\n|\\r|\\t|\\v|plain é",
    ],
)
def test_format_strings_are_mosquitto_sub_s(shared_broker: TestBroker, topic: str, template: str) -> None:
    """Every sequence except time and packet identifiers, at every QoS, with and without properties."""
    output, _, messages = both(shared_broker, topic, PAYLOADS, (0, 1, 2), "-N", "-F", template + END)
    mine, _ = ours(template_formatter(template + END, b""), messages)
    separator = b"\0end\0"
    assert sorted(mine.split(separator)) == sorted(output.split(separator))


@pytest.mark.parametrize("template", ["%j", "%J"])
@pytest.mark.parametrize("pretty", [(), ("--pretty",)])
def test_json_says_what_mosquitto_sub_s_says(
    shared_broker: TestBroker, topic: str, template: str, pretty: tuple[str, ...]
) -> None:
    """%j and %J have mosquitto_sub's names and values; --pretty has its layout, except inside arrays."""
    payloads = PAYLOADS[:1] + PAYLOADS[2:5] if template == "%j" else (*PAYLOADS[2:4], b'{"a": {"b": true}}', b"no json")
    output, errors, messages = both(shared_broker, topic, payloads, (0,), *pretty, "-N", "-F", template + END)
    mine, failures = ours(template_formatter(template + END, b"", pretty=bool(pretty)), messages)
    theirs = [text for text in output.split(b"\0end\0") if text]
    assert failures == errors.count(b"is not valid JSON")
    assert len(theirs) == len(payloads) - failures
    for own, other in zip(mine.split(b"\0end\0")[:-1], theirs, strict=True):
        one, two = json.loads(own), json.loads(other)
        one.pop("tst"), two.pop("tst")
        assert one == two
        assert layout(own) == layout(other)
