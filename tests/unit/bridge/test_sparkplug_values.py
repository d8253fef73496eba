"""What a Sparkplug payload becomes: values by type, names, times and tags; and what is refused."""

from __future__ import annotations

import json
import math
import random

import pytest

from mqttkit.bridge.metric import Metric, MetricParser, MetricRefusal, Refusal
from mqttkit.bridge.sparkplug.parser import SparkplugParser
from mqttkit.bridge.sparkplug.topic import parse_topic, plain_name
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings, SparkplugSettings
from tests.support import sparkplug as spb
from tests.support.pipelines import TENANT
from tests.support.sparkplug import metric, number_field, payload

NOW = 1_795_233_600_000
TOPIC = f"spBv1.0/{TENANT}/NBIRTH/edge-1"


def parser(**sparkplug: object) -> SparkplugParser:
    bridge = BridgeSettings(sparkplug=SparkplugSettings(enabled=True, **sparkplug))  # type: ignore[arg-type]
    return SparkplugParser(MetricParser(bridge.topic, payload_limit=bridge.payload_limit), bridge)


def read(*metrics: bytes, topic: str = TOPIC, timestamp: int = NOW) -> list[Metric]:
    return parser().parse_message(Message(topic, payload(metrics, timestamp=timestamp)), 5_000)


def refusal(body: bytes, topic: str = TOPIC) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parser().parse_message(Message(topic, body), 5_000)
    return caught.value


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        (spb.INT8, -128, -128.0),
        (spb.INT16, -1, -1.0),
        (spb.INT32, -(2**31), -(2.0**31)),
        (spb.INT64, -3, -3.0),
        (spb.INT64, -(2**63), -(2.0**63)),
        (spb.UINT8, 255, 255.0),
        (spb.UINT16, 65_535, 65_535.0),
        (spb.UINT32, 2**32 - 1, 2.0**32 - 1),
        (spb.UINT64, 2**63, 2.0**63),
        (spb.FLOAT, 0.5, 0.5),
        (spb.DOUBLE, -1e300, -1e300),
        (spb.BOOLEAN, 1, 1.0),
        (spb.BOOLEAN, 0, 0.0),
        (spb.DATE_TIME, NOW, float(NOW)),
    ],
)
def test_value_of_each_type(datatype: int, value: object, expected: float) -> None:
    """Integers have their sign and their size."""
    (found,) = read(metric("m", datatype, value))
    assert (found.value, found.tags, found.timestamp_ms) == (expected, None, NOW)


@pytest.mark.parametrize(("datatype", "raw"), [(spb.INT8, 0xFF), (spb.INT16, 0xFFFF), (spb.INT32, 2**64 - 1)])
def test_negative_integers_as_other_libraries_encode_them(datatype: int, raw: int) -> None:
    """Not extended, or extended to 64 bits."""
    field = 11 if raw >> 32 else 10
    encoded = metric("m", datatype, 0).removesuffix(number_field(10, 0)) + number_field(field, raw)
    assert [found.value for found in read(encoded)] == [-1.0]


@pytest.mark.parametrize(
    ("datatype", "value", "reason"),
    [
        (spb.INT8, 128 + 256, MetricRefusal.SPARKPLUG_TYPE),
        (spb.UINT8, 256, MetricRefusal.SPARKPLUG_TYPE),
        (spb.UINT64, 2**53 + 1, MetricRefusal.VALUE_PRECISION),
        (spb.INT64, -(2**53) - 1, MetricRefusal.VALUE_PRECISION),
        (spb.DOUBLE, math.nan, MetricRefusal.VALUE_NOT_FINITE),
        (spb.FLOAT, math.inf, MetricRefusal.VALUE_NOT_FINITE),
        (spb.BYTES, b"\0", MetricRefusal.SPARKPLUG_TYPE),
        (spb.DATA_SET, b"", MetricRefusal.SPARKPLUG_TYPE),
        (spb.STRING, b"\xff", MetricRefusal.SPARKPLUG_PAYLOAD),
        (spb.STRING, "a\0", MetricRefusal.NUL_CHARACTER),
    ],
)
def test_value_that_is_refused_leaves_the_others(datatype: int, value: object, reason: MetricRefusal) -> None:
    """The refusal has the message's other metrics, with the keys that they would have alone."""
    body = payload([metric("a", spb.INT32, 1), metric("b", datatype, value), metric("c", spb.INT32, 3)], timestamp=NOW)
    found = refusal(body)
    assert found.reason is reason
    assert "1 of 3 metrics" in found.detail
    assert [(one.metric_name, one.value) for one in found.metrics] == [("a", 1.0), ("c", 3.0)]
    assert [one.dedupe_id for one in found.metrics] == [f"spb:NBIRTH:{NOW}:0:0", f"spb:NBIRTH:{NOW}:0:2"]


def test_text_null_and_historical_values() -> None:
    """Text is a tag of the value 1; null is not stored; time is the metric's own, or else the payload's."""
    text, old = read(
        metric("hw", spb.STRING, "Pi 4"),
        metric("none", spb.INT32),
        metric("old", spb.INT32, 7, timestamp=NOW - 60_000, historical=True),
    )
    assert (text.value, text.tags) == (1.0, '{"text":"Pi 4"}')
    assert (old.value, old.tags, old.timestamp_ms) == (7.0, '{"historical":true}', NOW - 60_000)


@pytest.mark.parametrize(
    ("group", "node", "device", "name", "agent", "plain", "tags"),
    [
        ("", "edge-1", "", "temp", "edge-1", "temp", {}),
        ("", "edge-1", "press", "a/b", "edge-1:press", "a.b", {"name": "a/b"}),
        ("", "Edge 1", "", "ä b", "Edge_1", "__b", {"edge_node": "Edge 1", "name": "ä b"}),
        ("", "a:b", "c", "t", "a:b:c", "t", {"edge_node": "a:b", "device": "c"}),
    ],
)
def test_names_keep_their_meaning(
    group: str, node: str, device: str, name: str, agent: str, plain: str, tags: dict[str, str]
) -> None:
    """Names fit the rules of every sink; tags have what a changed name no longer shows."""
    kind, place = ("DBIRTH", f"{node}/{device}") if device else ("NBIRTH", node)
    (found,) = read(metric(name, spb.INT32, 1), topic=f"spBv1.0/{TENANT}/{kind}/{place}")
    assert (found.agent_id, found.metric_name, json.loads(found.tags or "{}")) == (agent, plain, tags)


def test_long_names_stay_different() -> None:
    """A name above 128 characters is cut, and ends with a digest of the whole."""
    first, second = plain_name("x" * 200 + "1"), plain_name("x" * 200 + "2")
    assert len(first) == len(second) == 128
    assert first != second


def test_group_becomes_tenant() -> None:
    """By the settings, or because it is a UUID; otherwise the message is a dead letter."""
    found = parser(groups=(f"Plant 1={TENANT.upper()}",))
    message = Message("spBv1.0/Plant 1/NBIRTH/e", payload([metric("m", spb.INT32, 1)]))
    assert found.parse_message(message, 0)[0].tenant_id == TENANT
    assert refusal(payload([]), "spBv1.0/Plant 1/NBIRTH/e").reason is MetricRefusal.TENANT_FORMAT


@pytest.mark.parametrize(
    "topic",
    [
        "spBv1.0/",
        "spBv1.0/g",
        "spBv1.0/g/NBIRTH",
        "spBv1.0/g/NBIRTH/e/d",
        "spBv1.0/g/DDATA/e",
        "spBv1.0/g/DDATA/e/d/x",
        "spBv1.0/g/XDATA/e",
        "spBv1.0//NDATA/e",
    ],
)
def test_topic_of_another_grammar_is_refused(topic: str) -> None:
    assert refusal(b"", topic).reason is MetricRefusal.TOPIC_SHAPE


@pytest.mark.parametrize("topic", ["spBv1.0/STATE/host", "spBv1.0/g/NCMD/e", "spBv1.0/g/DCMD/e/d"])
def test_commands_and_state_are_ignored(topic: str) -> None:
    assert parse_topic(topic) is None
    found = parser()
    assert found.parse_message(Message(topic, b"x"), 0) == []
    found.accept()
    assert found.counts()["ignored"] == 1


def test_other_topics_go_to_the_other_parser() -> None:
    (found,) = parser().parse_message(Message(f"metrics/{TENANT}/a/t", b'{"value":1}'), 0)
    assert (found.agent_id, found.value) == ("a", 1.0)


def test_mutated_and_random_payloads_raise_nothing_but_refusals() -> None:
    """5,000 payloads, all through one memory."""
    chance = random.Random(12)  # reproducible on purpose
    values = (metric("a/b", spb.INT64, -1, alias=1), metric("t", spb.STRING, "x"), metric("s", spb.DATA_SET, b"\x08\1"))
    base = payload(
        [metric("bdSeq", spb.INT64, 0), *values, metric("", spb.DOUBLE, 1.5, alias=1, carry_type=False)], seq=7
    )
    found, outcomes = parser(memory=100_000), set()
    for number in range(5_000):
        data = bytearray(base if number % 4 else chance.randbytes(chance.randint(0, 80)))
        for _ in range(chance.randint(0, 4)):
            place = chance.randint(0, len(data))
            data[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        kind = chance.choice(("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH"))
        topic = f"spBv1.0/{TENANT}/{kind}/e{chance.randint(0, 300)}" + ("/d" if kind[0] == "D" else "")
        found.begin()
        try:
            found.parse_message(Message(topic, bytes(data), qos=number % 2), NOW)
            outcomes.add("parsed")
        except Refusal as error:
            outcomes.add(error.reason.value)
        found.accept()
        assert found.memory.size <= 100_000
    assert {"parsed", "sparkplug_payload", "sparkplug_type", "sparkplug_alias"} <= outcomes
