"""JSON lines are lossless in both directions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import UsageError
from mqttkit.formats.jsonlines import Defaults, from_line, json_formatter, to_object
from mqttkit.messages import Message, Properties
from tests.support.strategies import messages

WHEN = 1_768_127_445_123_456_789


@given(st.lists(messages, max_size=5))
def test_each_message_is_one_line_and_comes_back_whole(sent: list[Message]) -> None:
    """Topic, payload, QoS, retain, DUP and every property survive the round trip; every line is JSON."""
    block = json_formatter()(sent, WHEN)
    lines = block.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(sent)
    for line, message in zip(lines, sent, strict=True):
        json.loads(line.decode())
        properties = None if message.properties == Properties() else message.properties
        assert from_line(line) == message._replace(properties=properties)


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_line_that_is_no_message_raises_only_a_usage_error(line: bytes) -> None:
    """Arbitrary bytes are a message or a UsageError, never another exception."""
    try:
        from_line(line)
    except UsageError as error:
        assert error.exit_code == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["topic", "topic_base64", "qos", "retain", "dup", "payload", "payload_base64", "properties", "timestamp"]
)


@given(st.dictionaries(keys, json_values | st.dictionaries(st.sampled_from(Properties.__match_args__), json_values)))
def test_any_values_give_a_message_or_a_usage_error_that_says_why(fields: dict[str, object]) -> None:
    """Any JSON value under any key is either used or reported."""
    try:
        message = from_line(json.dumps(fields).encode())
    except UsageError as error:
        assert str(error)
    else:
        assert set(fields) & {"payload", "payload_base64"}
        assert message.qos == fields.get("qos", 0)


def test_the_line_reads_as_documented() -> None:
    """The output equals the documented example, key for key."""
    line = json_formatter()([Message("a/b", b"21.5", qos=1)], WHEN)
    assert line == (
        b'{"timestamp":"2026-01-11T10:30:45.123456Z","topic":"a/b","qos":1,"retain":false,"payload":"21.5"}\n'
    )


def test_bytes_that_are_no_text_are_base64() -> None:
    """Payload, topic and correlation data that are not UTF-8 stay exact."""
    properties = Properties(correlation_data=b"\xff", user_properties=(("k", "1"), ("k", "2")))
    message = Message("a\udcff", b"\x00\xff", properties=properties)
    found = to_object(message, WHEN)
    assert found["topic_base64"] == "Yf8="
    assert found["payload_base64"] == "AP8="
    assert found["properties"] == {
        "correlation_data_base64": "/w==",
        "user_properties": [["k", "1"], ["k", "2"]],
    }


def test_properties_of_which_none_is_set_are_left_out() -> None:
    """Empty properties are not written; text that UTF-8 cannot encode is escaped."""
    assert b"properties" not in json_formatter()([Message("t", properties=Properties())], WHEN)
    odd = Properties(content_type="\ud800")
    assert b'"content_type":"\\ud800"' in json_formatter()([Message("t", properties=odd)], WHEN)


def test_defaults_fill_what_a_line_leaves_out() -> None:
    """Topic, QoS, retain and properties of the command apply if the line has none, and only then."""
    expiry = Properties(message_expiry_interval=9)
    defaults = Defaults(topic="t", qos=2, retain=True, properties=expiry)
    assert from_line(b'{"payload":"x"}', defaults) == Message("t", b"x", 2, True, properties=expiry)
    line = b'{"topic":"u","payload":"x","qos":0,"retain":false,"properties":{}}'
    assert from_line(line, defaults) == Message("u", b"x", 0, False, properties=Properties())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object, got [1]"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"payload":"x"}', "topic or topic_base64 is required"),
        (b'{"topic":"t"}', "payload or payload_base64 is required"),
        (b'{"topic":"t","payload":"x","payload_base64":""}', "give payload or payload_base64, not both"),
        (b'{"topic":"t","payload":{"x":1}}', 'payload must be a string, not {"x": 1}'),
        (b'{"topic":"t","payload_base64":"*"}', "payload_base64 is not Base64"),
        (b'{"topic":"t","payload":"\\ud800"}', "lone surrogate"),
        (b'{"topic":"t","payload":"","qos":3}', "qos must be 0 to 2, not 3"),
        (b'{"topic":"t","payload":"","qos":true}', "qos must be 0 to 2, not true"),
        (b'{"topic":"t","payload":"","retain":1}', "retain must be true or false, not 1"),
        (b'{"topic":"t","payload":"","qoz":1}', "unknown key qoz"),
        (b'{"topic":"t","payload":"","properties":7}', "properties must be an object"),
        (b'{"topic":"t","payload":"","properties":{"x":7}}', "unknown key properties.x"),
        (b'{"topic":"t","payload":"","properties":{"user_properties":{"a":"b"}}}', "list of [name, value]"),
        (b'{"topic":"t","payload":"","properties":{"user_properties":[["a"]]}}', "list of [name, value]"),
        (b'{"topic":"t","payload":"","properties":{"subscription_identifiers":1}}', "list of numbers"),
        (b'{"topic":"t","payload":"' + b"x" * 100 + b'","qos":"' + b"y" * 100 + b'"}', "yyy..."),
    ],
)
def test_a_wrong_line_is_named(line: bytes, says: str) -> None:
    """The error says what is wrong with the line."""
    with pytest.raises(UsageError) as caught:
        from_line(line)
    assert says in str(caught.value)


def test_many_topics_do_not_stay_in_memory() -> None:
    """The cache of quoted topic names is bounded, and the output stays right after it overflows."""
    write = json_formatter()
    for start in range(0, 10_000, 1000):
        block = write([Message(f"t/{number}", b"") for number in range(start, start + 1000)], WHEN)
        assert [from_line(line).topic for line in block.splitlines()] == [
            f"t/{number}" for number in range(start, start + 1000)
        ]
    caches = [cell.cell_contents for cell in write.__closure__ or () if isinstance(cell.cell_contents, dict)]
    assert [len(cache) <= 5096 for cache in caches] == [True]
