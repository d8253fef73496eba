"""Payloads of other forms become metrics by an expression in the settings; what it cannot map is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.bridge.dead_letters import LetterSelection, Retried, retry
from mqttkit.bridge.flow.mapping import MappedParser, open_parser
from mqttkit.bridge.metric import Metric, MetricParser, MetricRefusal, Refusal
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings
from tests.support.bridges import metric_topic
from tests.support.pipelines import OTHER, Bench, message

TWO = "[{name: 'temperature', value: to_number(t), tags: {unit: 'C'}, dedupe_id: id}, {name: 'humidity', value: h}]"
TOPIC = metric_topic(metric="state")


def parse(expression: str, payload: bytes, **options: str) -> list[Metric]:
    parser = MappedParser(BridgeSettings.topic, payload_limit=2_000, expression=expression)
    return parser.parse_all(TOPIC, payload, 5_000, **options)


def test_several_values_numeric_strings_and_units() -> None:
    """Each metric has its name; the topic gives tenant, agent and a name if the metric has none."""
    first, second = parse(TWO, b'{"t":"21.5","h":40,"id":"x"}')
    assert (first.metric_name, first.value, first.tags, first.dedupe_id) == ("temperature", 21.5, '{"unit":"C"}', "x")
    assert (second.metric_name, second.value, second.tags, second.timestamp_ms) == ("humidity", 40.0, None, 5_000)
    (only,) = parse("{value: v, timestamp: time}", b'{"v":1,"time":1700000000}')
    assert (only.metric_name, only.agent_id, only.timestamp_ms) == ("state", "agent-1", 1_700_000_000_000)


def test_names_that_the_payload_chooses() -> None:
    """`items` turns an object into a list of keys and values."""
    found = parse("items(@)[?key != 'id'].{name: key, value: value}", b'{"id":"x","a":1,"b.c":2.5}')
    assert [(metric.metric_name, metric.value) for metric in found] == [("a", 1.0), ("b.c", 2.5)]


@pytest.mark.parametrize(
    ("expression", "payload"), [("nothing", b"{}"), ("[]", b"{}"), ("list[?v].{value: v}", b'{"list":[]}')]
)
def test_payload_without_metrics(expression: str, payload: bytes) -> None:
    """null and an empty list are no metrics, and no error."""
    assert parse(expression, payload) == []


@pytest.mark.parametrize(
    ("expression", "payload", "reason"),
    [
        ("{value: to_number(v)}", b'{"v":"21,5"}', MetricRefusal.VALUE_TYPE),
        ("{value: v}", b'{"v":true}', MetricRefusal.VALUE_TYPE),
        ("{value: v}", b'{"v":1e999}', MetricRefusal.VALUE_NOT_FINITE),
        ("{value: v}", b'{"v":' + b"9" * 400 + b"}", MetricRefusal.VALUE_NOT_FINITE),
        ("{value: v}", b'{"v":9007199254740993}', MetricRefusal.VALUE_PRECISION),
        ("{value: v}", b'{"v":NaN}', MetricRefusal.VALUE_NOT_FINITE),
        ("{value: v}", b'{"v":1,"v":2}', MetricRefusal.DUPLICATE_KEY),
        ("{value: v}", b"[" * 1_500, MetricRefusal.JSON_DEPTH),
        ("{value: v}", b'{"v":', MetricRefusal.JSON_SYNTAX),
        ("{value: v}", b"", MetricRefusal.PAYLOAD_EMPTY),
        ("{value: v}", b" " * 2_001, MetricRefusal.PAYLOAD_TOO_LARGE),
        ("{value: v, unit: 'C'}", b'{"v":1}', MetricRefusal.MAPPING),
        ("{value: v, name: 'a b'}", b'{"v":1}', MetricRefusal.MAPPING),
        ("{value: v, dedupe_id: v}", b'{"v":1}', MetricRefusal.MAPPING),
        ("v", b'{"v":1}', MetricRefusal.MAPPING),
        ("{value: v, timestamp: t}", b'{"v":1,"t":1e999}', MetricRefusal.MAPPING),
        ("{value: v, tags: {a: t}}", b'{"v":1,"t":-1e999}', MetricRefusal.MAPPING),
        ("items(v)", b'{"v":1}', MetricRefusal.MAPPING),
        ("{value: floor(to_number(v))}", b'{"v":"inf"}', MetricRefusal.MAPPING),
        ("{value: floor(to_number(v))}", b'{"v":"nan"}', MetricRefusal.MAPPING),
        ("{value: sum(v)}", b'{"v":[1.5,' + b"9" * 400 + b"]}", MetricRefusal.MAPPING),
        ("max_by(v, &@)", b'{"v":[1,"a"]}', MetricRefusal.MAPPING),
        ("v[::0]", b'{"v":[1]}', MetricRefusal.MAPPING),
        ("{value: `1`, tags: {a: v}}", rb'{"v":"\ud800"}', MetricRefusal.MAPPING),
        ("v[*].{value: @, dedupe_id: 'a'}", b'{"v":[1,2]}', MetricRefusal.MAPPING),
        ("v[*].{value: @}", b'{"v":[1,2]}', None),
        ("v[*].{value: @}", b'{"v":[' + b"1," * 500 + b"1]}", None),
        ("v[*].{value: @} | [@, @, @][]", b'{"v":[' + b"1," * 500 + b"1]}", MetricRefusal.MAPPING),
    ],
)
def test_what_cannot_be_mapped_is_refused(expression: str, payload: bytes, reason: MetricRefusal | None) -> None:
    """Nothing is rounded, guessed or dropped in silence."""
    if reason is None:
        assert len(parse(expression, payload)) == payload.count(b",") + 1
        return
    with pytest.raises(Refusal) as caught:
        parse(expression, payload)
    assert caught.value.reason is reason


def test_retained_message_with_several_values_of_one_name_needs_a_dedupe_id() -> None:
    """Its content is the identity of each metric, so a sink would store only the first."""
    samples = b'{"s":[{"v":1,"t":1700000000},{"v":2,"t":1700000001}]}'
    with pytest.raises(Refusal, match="need different dedupe_ids"):
        parse("s[*].{value: v, timestamp: t}", samples, retained="retained:1")
    found = parse("s[*].{value: v, timestamp: t, dedupe_id: to_string(t)}", samples, retained="retained:1")
    assert [metric.dedupe_id for metric in found] == ["1700000000", "1700000001"]


def test_expression_that_is_wrong_is_an_error_of_usage() -> None:
    """It is found before the bridge starts."""
    with pytest.raises(UsageError, match="not a JMESPath expression"):
        open_parser(BridgeSettings(mapping="{value: "))
    with pytest.raises(UsageError, match="nested too deep"):
        open_parser(BridgeSettings(mapping="[" * 3_000 + "]" * 3_000))
    assert type(open_parser(BridgeSettings())) is MetricParser


def test_books_balance_with_several_metrics_of_a_message(tmp_path: Path) -> None:
    """Each metric counts as received; each message is acknowledged once; a message without metrics is put aside."""
    bench = Bench(tmp_path)
    bench.pipeline._parser = MappedParser(
        BridgeSettings.topic, payload_limit=1_000, expression=TWO + "[?value != null]"
    )
    payloads = [b'{"t":"1","h":2,"id":"a"}', b'{"t":"1","h":2,"id":"a"}', b'{"x":1}', b"[", b'{"h":3}']
    bench.offer(*(message(number, payload) for number, payload in enumerate(payloads, 1)))
    bench.offer(message(6, payloads[0], tenant=OTHER))
    bench.pipeline.step(1.0)
    assert bench.acknowledged == [1, 2, 3, 4, 5, 6]
    bench.check(stored=4, duplicate=1, dead=2)
    assert bench.pipeline.books.put_aside == 1
    assert bench.pipeline.books.acknowledged == 5
    assert sorted(stored.letter.reason for stored in bench.sink.letters.read()) == ["json_syntax", "tenant_unknown"]


def test_letter_with_several_metrics_is_retried(tmp_path: Path) -> None:
    """The corrected expression stores them all, and the letter goes."""
    bench = Bench(tmp_path)
    bench.offer(message(1, b'{"t":"1","h":2,"id":"a"}'))
    bench.pipeline.step(1.0)
    bench.check(dead=1)
    parser = MappedParser(BridgeSettings.topic, payload_limit=1_000, expression=TWO)
    assert retry(bench.sink, parser, bench.registry, LetterSelection()) == Retried(2, 0, 0)  # type: ignore[arg-type]
    assert bench.sink.letters.count() == 0
