"""Parsing of topics and payloads."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.bridge.metric import (
    MAX_TAGS,
    TOPIC_CACHE_ENTRIES,
    Metric,
    MetricParser,
    MetricRefusal,
    Refusal,
    check_metric_template,
    parse_timestamp,
    reserved_prefix,
    template_filter,
)
from mqttkit.errors import TopicError
from mqttkit.settings import BridgeSettings

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
TOPIC = f"metrics/{TENANT}/agent-1/temperature"
NOW = 1_763_690_000_000


def parser(template: str = BridgeSettings.topic, limit: int = 65_536) -> MetricParser:
    return MetricParser(template, payload_limit=limit)


def reason(payload: bytes, topic: str = TOPIC) -> MetricRefusal:
    with pytest.raises(Refusal) as caught:
        parser().parse(topic, payload, NOW)
    assert str(caught.value).startswith(caught.value.reason.value)
    return caught.value.reason


def test_whole_payload_becomes_a_metric() -> None:
    """Every field of the payload arrives in its column."""
    payload = b'{"value": 21.5, "timestamp": 1763690000.25, "dedupe_id": "a:1", "tags": {"unit": "C", "n:1": null}}'
    assert parser().parse(TOPIC.upper().replace("METRICS", "metrics"), payload, NOW) == Metric(
        TENANT, "AGENT-1", "TEMPERATURE", 21.5, 1_763_690_000_250, "a:1", '{"unit":"C","n:1":null}', NOW
    )


def test_value_alone_is_enough() -> None:
    """Without a time stamp the time of receipt counts; nulls and unknown keys are let pass."""
    expected = Metric(TENANT, "agent-1", "temperature", 7.0, NOW, None, None, NOW)
    for extra in ("", ', "timestamp": null, "dedupe_id": null, "tags": null', ', "unit": {"x": [1]}', ', "tags": {}'):
        assert parser().parse(TOPIC, f'{{"value": 7{extra}}}'.encode(), NOW) == expected


def test_retained_name_is_used_where_the_payload_has_none() -> None:
    """A retained message's own dedupe_id goes before the one made for it."""
    assert parser().parse(TOPIC, b'{"value":1}', NOW, retained="r").dedupe_id == "r"
    assert parser().parse(TOPIC, b'{"value":1,"dedupe_id":"d"}', NOW, retained="r").dedupe_id == "d"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", MetricRefusal.PAYLOAD_EMPTY),
        (b"x" * 65_537, MetricRefusal.PAYLOAD_TOO_LARGE),
        (b'{"value": 1, "dedupe_id": "\xff"}', MetricRefusal.JSON_ENCODING),
        (b'{"value": 1', MetricRefusal.JSON_SYNTAX),
        (b'{"value": 1} x', MetricRefusal.JSON_SYNTAX),
        (b'{"value": 1, "dedupe_id": "\\ud800"}', MetricRefusal.JSON_SYNTAX),
        (b"[" * 10_000, MetricRefusal.JSON_DEPTH),
        (b'{"value": 1, "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", MetricRefusal.JSON_DEPTH),
        (b"[1]", MetricRefusal.JSON_SHAPE),
        (b'"x"', MetricRefusal.JSON_SHAPE),
        (b'{"value": 1, "value": 2}', MetricRefusal.DUPLICATE_KEY),
        (b'{"value": 1, "tags": {"a": 1, "a": 1}}', MetricRefusal.DUPLICATE_KEY),
        (b'{"value": 1, "x": {"a": 1, "a": 1}}', MetricRefusal.DUPLICATE_KEY),
        (b'{"value": 1, "tags": {"a": "\\u0000"}}', MetricRefusal.NUL_CHARACTER),
        (b'{"Value": 1}', MetricRefusal.VALUE_MISSING),
        (b'{"value": true}', MetricRefusal.VALUE_TYPE),
        (b'{"value": "1"}', MetricRefusal.VALUE_TYPE),
        (b'{"value": null}', MetricRefusal.VALUE_TYPE),
        (b'{"value": 9007199254740993}', MetricRefusal.VALUE_PRECISION),
        (b'{"value": -9007199254740993}', MetricRefusal.VALUE_PRECISION),
        (b'{"value": 1' + b"0" * 40 + b"}", MetricRefusal.VALUE_PRECISION),
        (b'{"value": 1, "value": 2, "tags": {"a\\u003ab": 1}}', MetricRefusal.DUPLICATE_KEY),
        (b'{"value": 1, "value": 2, "dedupe_id": "a\\u003Ab"}', MetricRefusal.DUPLICATE_KEY),
        (b'{"value": NaN}', MetricRefusal.VALUE_NOT_FINITE),
        (b'{"value": -Infinity}', MetricRefusal.VALUE_NOT_FINITE),
        (b'{"value": 1e999}', MetricRefusal.VALUE_NOT_FINITE),
        (b'{"value": 1, "timestamp": "yesterday"}', MetricRefusal.TIMESTAMP_FORMAT),
        (b'{"value": 1, "timestamp": false}', MetricRefusal.TIMESTAMP_FORMAT),
        (b'{"value": 1, "timestamp": -1}', MetricRefusal.TIMESTAMP_RANGE),
        (b'{"value": 1, "timestamp": 1e300}', MetricRefusal.TIMESTAMP_RANGE),
        (b'{"value": 1, "dedupe_id": ""}', MetricRefusal.DEDUPE_ID),
        (b'{"value": 1, "dedupe_id": 5}', MetricRefusal.DEDUPE_ID),
        (b'{"value": 1, "dedupe_id": "a\\u0000"}', MetricRefusal.DEDUPE_ID),
        (b'{"value": 1, "dedupe_id": "' + b"x" * 129 + b'"}', MetricRefusal.DEDUPE_ID),
        (b'{"value": 1, "tags": ["a"]}', MetricRefusal.TAGS),
        (b'{"value": 1, "tags": {"a": {}}}', MetricRefusal.TAGS),
        (json.dumps({"value": 1, "tags": {f"t{n}": n for n in range(65)}}).encode(), MetricRefusal.TAGS),
    ],
)
def test_refusal_of_a_payload_names_its_reason(payload: bytes, expected: MetricRefusal) -> None:
    """Each kind of bad payload has its own code."""
    assert reason(payload) is expected


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**53 + 2, 2**60, 2**53 - 1])
def test_integer_that_a_double_holds_is_stored_exactly(number: int) -> None:
    """Large integers are accepted if no digit is lost."""
    assert parser().parse(TOPIC, b'{"value": %d}' % number, NOW).value == number


@pytest.mark.parametrize("number", [2**64 + 1, 2**63, -(2**63) - 1, 2**53 + 1])
def test_integer_in_a_tag_is_stored_exactly(number: int) -> None:
    """A tag keeps every digit of an integer."""
    tags = parser().parse(TOPIC, b'{"value": 1, "tags": {"id": %d}}' % number, NOW).tags
    assert tags == f'{{"id":{number}}}'


def test_large_float_is_accepted() -> None:
    """A number with an exponent is a double already."""
    assert parser().parse(TOPIC, b'{"value": 1e300}', NOW).value == 1e300


@pytest.mark.parametrize(
    "payload",
    [
        b'{"value": 1}',
        b'{"value": 1, "timestamp": "2026-11-21T04:00:00Z"}',
        b'{"value": 1, "timestamp": 5, "dedupe_id": null, "tags": null}',
        b'{"value": 1, "dedupe_id": "a:b:c:d"}',
        b'{"value": 1, "tags": {"a:b": "c:d:e", "f": 1, "g": null, "h:i:j": true}}',
    ],
)
def test_usual_payload_needs_no_second_decoding(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colons in strings and keys do not send a payload to the slow check for duplicate keys."""
    monkeypatch.setattr("mqttkit.bridge.metric.check_json", lambda _payload: pytest.fail("decoded twice"))
    assert parser().parse(TOPIC, payload, NOW).value == 1


def test_sizes_up_to_the_limits_are_accepted() -> None:
    """A payload of exactly the limit, 64 tags, names of 128 characters."""
    payload = b'{"value": 1}'
    assert parser(limit=len(payload)).parse(TOPIC, payload, NOW).value == 1
    with pytest.raises(Refusal):
        parser(limit=len(payload) - 1).parse(TOPIC, payload, NOW)
    tags = json.dumps({"value": 1, "tags": {f"t{n}": n for n in range(MAX_TAGS)}}).encode()
    assert json.loads(parser().parse(TOPIC, tags, NOW).tags or "") == {f"t{n}": n for n in range(MAX_TAGS)}
    topic = f"metrics/{TENANT}/{'a' * 128}/{'m' * 128}"
    assert parser().parse(topic, payload, NOW)[1:3] == ("a" * 128, "m" * 128)


def test_tag_with_an_escape_that_is_not_nul_is_accepted() -> None:
    """A backslash before u0000 is text, not a NUL character."""
    payload = b'{"value": 1, "tags": {"a": "\\\\u0000"}}'
    assert json.loads(parser().parse(TOPIC, payload, NOW).tags or "") == {"a": "\\u0000"}


@pytest.mark.parametrize(
    ("topic", "payload", "detail"),
    [
        (f"metrics/{TENANT}/a b/c", b'{"value":1}', "topic_shape: agent_id 'a b' is not"),
        (f"metrics/{TENANT}/a/c d", b'{"value":1}', "topic_shape: metric_name 'c d' is not"),
        ("metrics/x", b'{"value":1}', f"topic_shape: the topic does not match {BridgeSettings.topic}"),
        (TOPIC, b'{"x":0, "value": 1, "y":0, "value": 2}', "duplicate_key: 'value' appears twice"),
        (TOPIC, b"", "payload_empty"),
        (TOPIC, b"[1]", "json_shape: expected a JSON object, not list"),
        (TOPIC, b'{"value": true}', "value_type: value is bool, expected a number"),
        (TOPIC, b'{"value": 1, "timestamp": -1}', "timestamp_range: -1 is not between 1970 and 2199"),
        (TOPIC, b'{"value": 1, "x": "\xc3\x28"}', "json_encoding: byte 19 is not UTF-8"),
    ],
)
def test_refusal_says_what_it_found(topic: str, payload: bytes, detail: str) -> None:
    """The detail names the part that is wrong."""
    with pytest.raises(Refusal) as caught:
        parser().parse(topic, payload, NOW)
    assert str(caught.value).startswith(detail)
    assert str(caught.value) == (
        f"{caught.value.reason.value}: {caught.value.detail}" if caught.value.detail else detail
    )


@pytest.mark.parametrize("character", ["\ud800", "\udfff", "\udc80", "\0"])
def test_topic_with_any_surrogate_is_not_utf8(character: str) -> None:
    """Both ends of the range of surrogates, which stand for bytes that are not UTF-8."""
    assert reason(b'{"value":1}', f"metrics/{TENANT}/a/{character}") is MetricRefusal.TOPIC_ENCODING


@pytest.mark.parametrize("character", ["\ud7ff", "\ue000"])
def test_topic_beside_the_surrogates_is_utf8(character: str) -> None:
    """Characters next to that range are valid UTF-8 and only not allowed in a name."""
    assert reason(b'{"value":1}', f"metrics/{TENANT}/a/{character}") is MetricRefusal.TOPIC_SHAPE


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (f"metrics/{'x' * 41}/a/b", b'{"value":1}'),
        (f"metrics/{TENANT}/{' ' * 41}/b", b'{"value":1}'),
        (f"metrics/{TENANT}/a/{' ' * 41}", b'{"value":1}'),
        (TOPIC, b'{"value":1,"timestamp":"%s"}' % (b"x" * 41)),
        (TOPIC, b'{"value":1,"%s":1,"%s":1}' % (b"x" * 41, b"x" * 41)),
    ],
)
def test_refusal_quotes_forty_characters(topic: str, payload: bytes) -> None:
    """Longer text is cut, so that the refusal stays one readable line."""
    with pytest.raises(Refusal) as caught:
        parser().parse(topic, payload, NOW)
    assert len(caught.value.detail.split("'")[1]) == 40


def test_bounds_of_the_parser() -> None:
    """10,000 topics in the cache, 64 tags, 128 characters in a dedupe_id."""
    assert (TOPIC_CACHE_ENTRIES, MAX_TAGS) == (10_000, 64)
    payload = b'{"value": 1, "dedupe_id": "%s"}' % (b"x" * 128)
    assert parser().parse(TOPIC, payload, NOW).dedupe_id == "x" * 128


def test_template_with_braces_after_the_first_placeholder() -> None:
    """The fixed prefix ends at the first placeholder."""
    template = "a/b/{tenant_id}/c/{agent_id}/{metric_name}"
    assert (template_filter(template), reserved_prefix(template)) == ("a/b/#", "a/b/_mqttkit/")


def test_template_helpers_return_what_to_use() -> None:
    """A valid template comes back; topics under the reserved prefix are mqttkit's own."""
    assert check_metric_template(BridgeSettings.topic) == BridgeSettings.topic
    assert reserved_prefix(BridgeSettings.topic) == "metrics/_mqttkit/"
    assert reserved_prefix("{tenant_id}/{agent_id}/{metric_name}") == "_mqttkit/"


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("metrics//x", MetricRefusal.TOPIC_SHAPE),
        ("other", MetricRefusal.TOPIC_SHAPE),
        (f"metrics/{TENANT}/a/b/c", MetricRefusal.TOPIC_SHAPE),
        (f"metrics/{TENANT}//b", MetricRefusal.TOPIC_SHAPE),
        (f"metrics/{TENANT}/a b/c", MetricRefusal.TOPIC_SHAPE),
        (f"metrics/{TENANT}/a/{'m' * 129}", MetricRefusal.TOPIC_SHAPE),
        (f"{TOPIC}\n", MetricRefusal.TOPIC_SHAPE),
        ("metrics/not-a-uuid/a/b", MetricRefusal.TENANT_FORMAT),
        (f"metrics/{TENANT}/a/b\udcff", MetricRefusal.TOPIC_ENCODING),
        (f"metrics/{TENANT}/a/b\0", MetricRefusal.TOPIC_ENCODING),
        ("metrics/" + "x" * 65_527, MetricRefusal.TOPIC_SHAPE),
    ],
)
def test_refusal_of_a_topic_names_its_reason(topic: str, expected: MetricRefusal) -> None:
    """A topic under the subscription that does not match the template is a Refusal, not another exception."""
    assert reason(b'{"value":1}', topic) is expected


def test_template_may_have_another_order() -> None:
    """Parts are found by name, and text around them must match literally."""
    other = parser("v1.0/{metric_name}/of/{agent_id}/{tenant_id}")
    assert other.parse(f"v1.0/t/of/a/{TENANT}", b'{"value":1}', NOW)[:3] == (TENANT, "a", "t")
    with pytest.raises(Refusal):
        other.parse(f"v1x0/t/of/a/{TENANT}", b'{"value":1}', NOW)
    assert template_filter("v1/{metric_name}/of/{agent_id}/{tenant_id}") == "v1/#"
    assert template_filter("{tenant_id}/{agent_id}/{metric_name}") == "#"


@pytest.mark.parametrize(
    "template",
    [
        "metrics/{tenant_id}/{agent_id}",
        "m/{tenant_id}-{agent_id}/{metric_name}",
        "m/{tenant_id}/{agent_id}/x{metric_name}",
    ],
)
def test_template_needs_each_part_as_a_level(template: str) -> None:
    """A template without one of the parts, or with two in a level, is an error of usage."""
    with pytest.raises(TopicError):
        parser(template)


def test_topics_remembered_are_bounded() -> None:
    """A million topics do not grow the cache."""
    one = parser()
    for number in range(TOPIC_CACHE_ENTRIES + 10):
        one.parse(f"metrics/{TENANT}/a{number}/t", b'{"value":1}', NOW)
        if number == TOPIC_CACHE_ENTRIES - 1:
            assert len(one._names) == TOPIC_CACHE_ENTRIES
    assert len(one._names) == 10


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("2026-11-21T04:00:00Z", 1_795_233_600_000),
        ("2026-11-21T05:00:00.5+01:00", 1_795_233_600_500),
        ("2026-11-21T04:00:00", 1_795_233_600_000),
        ("2026-11-21", 1_795_219_200_000),
        (1_795_233_600, 1_795_233_600_000),
        (1_795_233_600_000, 1_795_233_600_000),
        (1_795_233_600.5, 1_795_233_600_500),
        (0, 0),
        (99_999_999_999 / 100, 999_999_999_990),
        (100_000_000_000, 100_000_000_000),
        (0.0004, 0),
        (-0.0004, 0),
        (7_258_118_399_999, 7_258_118_399_999),
        (7_258_118_399, 7_258_118_399_000),
    ],
)
def test_timestamp_forms(given_text: str | float, expected: int) -> None:
    """ISO 8601 with or without offset, seconds and milliseconds come to UTC milliseconds."""
    assert parse_timestamp(given_text) == expected


@pytest.mark.parametrize("given_number", [7_258_118_400_000, -0.001, -100_000_000_000, 7_258_118_400])
def test_timestamp_outside_the_range_is_refused(given_number: float) -> None:
    """The first moment of 2200 and everything before 1970."""
    with pytest.raises(Refusal) as caught:
        parse_timestamp(given_number)
    assert caught.value.reason is MetricRefusal.TIMESTAMP_RANGE


@given(st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30), timezones=st.just(timezone.utc)))  # noqa: DTZ001
def test_timestamp_round_trip(moment: datetime) -> None:
    """Text and numbers of one moment agree to the millisecond."""
    assert abs(parse_timestamp(moment.isoformat()) - moment.timestamp() * 1000) <= 1


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
OBJECTS = st.dictionaries(
    st.sampled_from(["value", "timestamp", "dedupe_id", "tags", "other:"]) | st.text(max_size=3),
    SCALARS | st.dictionaries(st.text(max_size=3), SCALARS, max_size=3) | st.lists(SCALARS, max_size=2),
)


@given(st.binary() | OBJECTS.map(lambda value: json.dumps(value).encode()), st.text() | st.just(TOPIC))
def test_parsing_raises_refusals_only(payload: bytes, topic: str) -> None:
    """Whatever comes is a metric with a finite value, or a Refusal."""
    try:
        metric = parser().parse(topic, payload, NOW)
    except Refusal:
        return
    assert math.isfinite(metric.value)
    assert json.loads(payload)["value"] == pytest.approx(metric.value)


@given(OBJECTS, st.data())
def test_a_key_that_comes_twice_is_always_seen(content: dict[str, object], data: st.DataObject) -> None:
    """Repeating any pair of an acceptable object makes it a duplicate key, colons in strings or not."""
    content = {"value": 1, **{key: value for key, value in content.items() if key != "value"}}
    try:
        parser().parse(TOPIC, json.dumps(content).encode(), NOW)
    except Refusal:
        return
    key = data.draw(st.sampled_from(sorted(content)))
    twice = json.dumps(content)[:-1] + f", {json.dumps({key: content[key]})[1:-1]}}}"
    assert reason(twice.encode()) is MetricRefusal.DUPLICATE_KEY
