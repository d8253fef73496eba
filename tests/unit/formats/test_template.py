"""Format strings, and the plain formats."""

from __future__ import annotations

import json
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import UsageError
from mqttkit.formats import payload_formatter, verbose_formatter
from mqttkit.formats.clock import local, utc
from mqttkit.formats.jsonlines import json_formatter
from mqttkit.formats.template import NotJson, template_formatter
from mqttkit.messages import Message, Properties
from tests.support.strategies import messages

WHEN = 1_768_127_445_123_456_789
FULL = Message(
    "a/b",
    b"h\xc3\xa9\xff",
    qos=1,
    retain=True,
    mid=7,
    properties=Properties(
        payload_format_indicator=1,
        message_expiry_interval=60,
        content_type="text/plain",
        response_topic="r/t",
        correlation_data=b"\x00c",
        user_properties=(("k", "v"), ("k", "w"), ("l", "x")),
        subscription_identifiers=(42, 43),
        topic_alias=5,
    ),
)


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time is UTC + 1 h in these tests."""
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()


@pytest.mark.parametrize(
    ("template", "payload", "wanted"),
    [
        ("%d", struct.pack("<d", 21.5), b"21.500000"),
        ("%.1f|%8.2f|%-8.2f|%08.2f", struct.pack("<f", 21.5), b"21.5|   21.50|21.50   |00021.50"),
        ("%.0d", struct.pack("<d", -2.25), b"-2"),
        ("%d|%4f|", b"12345", b"|    |"),
    ],
)
def test_a_binary_number_is_printed(template: str, payload: bytes, wanted: bytes) -> None:
    """%d is a double and %f a float, both little-endian; a payload of another size gives blanks."""
    assert template_formatter(template, b"")([Message("t", payload)], WHEN) == wanted


@given(st.lists(messages, max_size=5), st.sampled_from([b"\n", b""]))
def test_payloads_come_out_byte_for_byte(batch: list[Message], end: bytes) -> None:
    """The plain format is each payload followed by the given end of line."""
    assert payload_formatter(end)(batch, WHEN) == b"".join(message.payload + end for message in batch)
    assert verbose_formatter(end)(batch, WHEN) == b"".join(
        message.topic_bytes + b" " + (message.payload or b"(null)") + end for message in batch
    )


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("%t|%p|%q|%r|%l|%m", b"a/b|h\xc3\xa9\xff|1|1|4|7"),
        ("%x %X", b"68c3a9ff 68C3A9FF"),
        ("%.2x|%.4X|%.0x|%.3x", b"68 c3 a9 ff|68C3 A9FF|68c3a9ff|68c 3a9 ff"),
        ("%.2:x|%.4:X", b"68:c3:a9:ff|68C3:A9FF"),
        ("%14.2x|%-14.2x|", b"   68 c3 a9 ff|68 c3 a9 ff   |"),
        ("%A %C %E %F %R %S", b"5 text/plain 60 1 r/t 42,43"),
        ("%D", b"\x00c"),
        ("%P", b"k:v k:w l:x"),
        ("%I", b"2026-01-11T11:30:45+0100"),
        ("%U", b"1768127445.123456789"),
        ("@Y-@m-@d @H:@M:@S.@N @@", b"2026-01-11 11:30:45.123456789 @"),
        ("%%\\\\\\0\\a\\e\\n\\r\\t\\v", b"%\\\0\a\x1b\n\r\t\v"),
        ("%10t|%-10t|%.2t|%5.2t|%010t", b"       a/b|a/b       |a/|   a/|       a/b"),
        ("%5l|%05l|%-5l|%-05l|", b"    4|00004|4    |4    |"),
        ("%.4I", b"2026"),
        ("%.1l %2p", b"4 h\xc3\xa9\xff"),
        ("%03A %03E %03F %03l %03m %07S", b"005 060 001 004 007 0042,43"),
        ("%010x|%010X", b"0068c3a9ff|0068C3A9FF"),
        ("%.3C|%.1R|%.1A|%.1E|%.1S|%.1m|%.1x", b"tex|r|5|60|42,43|7|6 8 c 3 a 9 f f"),
        ("%9%|%9D|%20P|%9q|%9r|%40U", b"%|\x00c|k:v k:w l:x|1|1|1768127445.123456789"),
        ("%6p|%-6p|%06p|%.2p", b"  h\xc3\xa9\xff|h\xc3\xa9\xff  |  h\xc3\xa9\xff|h\xc3\xa9\xff"),
        ("%.0t|%.t|%1t|%3t|%4t", b"||a/b|a/b| a/b"),
        ("plain é", "plain é".encode()),
        ("", b""),
    ],
)
def test_each_sequence_stands_for_its_value(template: str, wanted: bytes) -> None:
    """Every sequence prints what the manual page says."""
    assert template_formatter(template)([FULL], WHEN) == wanted + b"\n"


@pytest.mark.parametrize("template", ["%10001t", "%.10001t", "%-010001l"])
def test_a_width_has_a_limit(template: str) -> None:
    """Up to 10,000 characters, so that a format string cannot fill the memory."""
    with pytest.raises(UsageError, match="a width must be at most 10000"):
        template_formatter(template)
    allowed = template.replace("10001", "10000")
    assert len(template_formatter(allowed, b"")([FULL], WHEN)) in (3, 10_000)


def test_json_is_on_one_line_unless_indented() -> None:
    """For `jq` and `grep` by default; with --pretty for people, %J with the payload inside."""
    message = Message("t", b'{"a":1}')
    assert template_formatter("%j")([message], WHEN).count(b"\n") == 1
    assert template_formatter("%J")([message], WHEN).endswith(b'"payload":{"a":1}}\n')
    assert b'\n\t"topic":\t"t",\n' in template_formatter("%j", pretty=True)([message], WHEN)
    assert template_formatter("%J", pretty=True)([message], WHEN).endswith(b'"payload":\t{\n\t\t"a":\t1\n\t}\n}\n')


def test_absent_properties_print_nothing() -> None:
    """A property that a message does not have is an empty field."""
    assert template_formatter("[%A%C%D%E%F%P%R%S]", b"")([Message("t")], WHEN) == b"[]"


def test_percent_j_is_always_json() -> None:
    """%j has mosquitto_sub's names, and stays valid if the payload is not text."""
    found = json.loads(template_formatter("%j")([FULL], WHEN))
    assert found == {
        "tst": "2026-01-11T11:30:45.123456+0100",
        "topic": "a/b",
        "qos": 1,
        "retain": 1,
        "payloadlen": 4,
        "mid": 7,
        "properties": {
            "topic-alias": 5,
            "subscription-identifier": [42, 43],
            "user-properties": {"k": ["v", "w"], "l": "x"},
            "content-type": "text/plain",
            "response-topic": "r/t",
            "correlation-data": "\0c",
            "payload-format-indicator": 1,
            "message-expiry-interval": 60,
        },
        "payload_base64": "aMOp/w==",
    }
    one = Properties(subscription_identifiers=(3,))
    assert json.loads(template_formatter("%j")([Message("t", properties=one)], WHEN))["properties"] == {
        "subscription-identifier": 3
    }


@given(messages)
def test_percent_j_is_json_for_any_message(message: Message) -> None:
    """No topic, payload or property breaks %j, and its indented form has the same fields."""
    found = json.loads(template_formatter("%j")([message], WHEN).decode())
    assert found["payloadlen"] == len(message.payload)
    assert found["qos"] == message.qos
    assert json.loads(template_formatter("%j", pretty=True)([message], WHEN).decode()) == found


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize(
    "payload", [b'{"t": 27.0}', b"[1, 2]", b'"x"', b" 7\n", b"null", b"1e999", b"9" * 5000, b'{\n"a":\r\n1}']
)
def test_percent_capital_j_embeds_the_payload_as_it_is(payload: bytes, pretty: bool) -> None:
    """%J keeps every number's digits and stays one line unless pretty."""
    written = template_formatter("%J", pretty=pretty)([Message("t", payload)], WHEN)
    assert b"Infinity" not in written
    outer = json.loads(written, parse_float=str, parse_int=str)
    assert outer["payload"] == json.loads(payload, parse_float=str, parse_int=str)
    assert pretty or written.count(b"\n") == 1


def test_an_empty_payload_is_null_for_j_that_embeds() -> None:
    """A cleared retained message prints null, as in mosquitto_sub."""
    assert json.loads(template_formatter("%J")([Message("t", b"")], WHEN))["payload"] is None


@pytest.mark.parametrize("payload", [b"{", b"NaN", b"\xff", b"[" * 100_000, b'{"a":1} x'])
def test_percent_capital_j_refuses_what_is_no_json(payload: bytes) -> None:
    """%J names the topic of a payload that is not JSON."""
    with pytest.raises(NotJson, match="topic 'a/b': payload is not valid JSON"):
        template_formatter("%J")([Message("a/b", payload)], WHEN)


def test_a_maximum_width_without_digits_is_zero() -> None:
    """`%.t` prints nothing, as printf does."""
    assert template_formatter("%.t|%5.t|", b"")([Message("abc")], WHEN) == b"|     |"


def test_the_largest_width_works() -> None:
    """A width of 10,000 pads; one more is an error."""
    assert template_formatter("%10000t%.10000t", b"")([Message("t")], WHEN) == b"t".rjust(10_000) + b"t"


def test_pretty_json_is_indented() -> None:
    """Pretty JSON has one key per line."""
    written = template_formatter("%j", pretty=True)([Message("t", b"x")], WHEN)
    assert written.splitlines()[0] == b"{"
    assert b'\t"topic":\t"t",' in written.splitlines()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("%z", "unknown sequence '%z'"),
        ("%", "unknown sequence '%'"),
        ("%5", "unknown sequence '%5'"),
        ("%0-5l", "unknown sequence '%0-'"),
        ("@", "@ at the end"),
        ("\\q", "unknown escape sequence"),
        ("x\\", "unknown escape sequence"),
        ("%10001t", "a width must be at most 10000"),
    ],
)
def test_a_wrong_format_string_is_named(template: str, says: str) -> None:
    """An unknown sequence is an error before the command connects."""
    with pytest.raises(UsageError) as caught:
        template_formatter(template)
    assert says in str(caught.value)


@given(st.text(st.sampled_from("%@\\-0.59tpqlxIUjaenN z"), max_size=12))
def test_any_format_string_formats_or_is_refused(template: str) -> None:
    """A format string that parses never fails later."""
    try:
        write = template_formatter(template)
    except UsageError:
        return
    assert write([FULL, Message("t")], WHEN).endswith(b"\n")


def test_times_are_written_with_microseconds() -> None:
    """UTC ends in Z, local time in its offset."""
    assert utc(WHEN) == "2026-01-11T10:30:45.123456Z"
    assert local(WHEN) == "2026-01-11T11:30:45.123456+0100"


def test_no_messages_are_no_output() -> None:
    """A sample of a batch may be empty."""
    for formatter in (payload_formatter(), verbose_formatter(), json_formatter()):
        assert formatter([], WHEN) == b""
