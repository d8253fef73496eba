"""The message envelope."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.controller.messages.envelope import Envelope, format_timestamp, new_message_id, parse, parse_timestamp
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from tests.support.pages import find_page

SCHEMA = json.loads(find_page("envelope.schema.json").read_text())
names = st.text(min_size=1, max_size=20).filter(str.isprintable)
texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=8,
)
payloads = st.dictionaries(texts, values, max_size=4)
envelopes = st.builds(
    Envelope,
    message_id=st.integers(0, 2**48 - 1).map(new_message_id),
    message_type=names,
    sender_id=names,
    region=names,
    timestamp=st.integers(0, 253_402_300_799_999),
    sequence=st.integers(0, 2**53 - 1),
    payload=payloads,
    extra=st.dictionaries(st.sampled_from(["trace", "x", "é"]), values),
)


def document(**changes: object) -> dict[str, object]:
    """A good envelope as JSON, changed; None takes a field away."""
    good: dict[str, object] = {
        "message_id": new_message_id(), "message_type": "event", "sender_id": "lc-1", "region": "zone-A",
        "timestamp": "2026-01-11T10:30:45.123Z", "sequence": 1, "schema_version": 1, "payload": {},
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def refusal(data: bytes) -> MessageRefused:
    """Return what parsing ends with."""
    with pytest.raises(MessageRefused) as caught:
        parse(data)
    return caught.value


@given(envelopes)
def test_an_envelope_comes_back_as_it_went(envelope: Envelope) -> None:
    """Fields that this version does not know included; and it obeys the published schema."""
    data = envelope.to_bytes()
    assert parse(data) == envelope
    jsonschema.validate(json.loads(data), SCHEMA)


@given(st.binary())
def test_arbitrary_bytes_are_refused_with_a_reason(data: bytes) -> None:
    """Nothing but MessageRefused comes out of the parser."""
    try:
        parse(data)
    except MessageRefused as error:
        assert error.reason in (MessageRefusal.MALFORMED, MessageRefusal.UNKNOWN_VERSION)


@given(payloads.flatmap(lambda base: st.just({**document(), **base})))
def test_arbitrary_documents_are_refused_with_a_reason(base: dict[str, object]) -> None:
    """A known field may be anything."""
    try:
        parse(json.dumps(base).encode())
    except MessageRefused as error:
        assert error.reason in (MessageRefusal.MALFORMED, MessageRefusal.UNKNOWN_VERSION)


@pytest.mark.parametrize(("changes", "message"), [
    ({"payload": None}, "payload is missing"),
    ({"payload": []}, "payload must be a JSON object"),
    ({"message_id": "1"}, "message_id must be a UUIDv7"),
    ({"message_id": "8d3c1f9a-7a3e-4b1f-9f55-0a1b2c3d4e5f"}, "message_id must be a UUIDv7"),
    ({"message_id": 7}, "message_id must be a UUIDv7"),
    ({"sequence": True}, "sequence must be a whole number"),
    ({"sequence": -1}, "sequence must be a whole number"),
    ({"sequence": 1.0}, "sequence must be a whole number"),
    ({"sequence": 2**53}, "sequence must be a whole number"),
    ({"sender_id": ""}, "sender_id must be text"),
    ({"sender_id": "a\nb"}, "sender_id must be text"),
    ({"region": "x" * 129}, "region must be text of 1 to 128 printable characters"),
    ({"timestamp": "2026-01-11T10:30:45Z"}, "timestamp must look like"),
    ({"timestamp": "2026-02-30T10:30:45.123Z"}, "timestamp: "),
    ({"timestamp": "0000-01-01T00:00:00.000Z"}, "timestamp: "),
    ({"timestamp": 1}, "timestamp must look like"),
    ({"schema_version": None}, "schema_version is missing"),
])  # fmt: skip
def test_a_bad_field_is_named(changes: dict[str, object], message: str) -> None:
    """Each is malformed, and says why; the published schema refuses it too where it can."""
    error = refusal(json.dumps(document(**changes)).encode())
    assert (error.reason, error.message.startswith(message)) == (MessageRefusal.MALFORMED, True), error.message


@pytest.mark.parametrize("data", [
    b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b'{"sequence":NaN}', b'"' + b"1" * 5000, b"1" * 5000,
])  # fmt: skip
def test_what_is_no_json_object_is_malformed(data: bytes) -> None:
    """Twins of a key, numbers that JSON lacks and towers of brackets included."""
    assert refusal(data).reason is MessageRefusal.MALFORMED


@pytest.mark.parametrize("version", [2, 0, "1", 1.5, True, [1]])
def test_an_unknown_version_is_refused_by_name(version: object) -> None:
    """Whatever else is in the message."""
    error = refusal(json.dumps({"schema_version": version}).encode())
    assert error.reason is MessageRefusal.UNKNOWN_VERSION
    assert f"schema_version {version}" in error.message


def test_message_ids_sort_by_time_and_differ() -> None:
    """UUIDv7: the first 48 bits are milliseconds."""
    now = time.time_ns() // 1_000_000
    ids = [new_message_id(now + step) for step in range(50)]
    assert ids == sorted(ids)
    assert int(ids[0].replace("-", "")[:12], 16) == now
    assert len({new_message_id(now) for _ in range(1000)}) == 1000


@given(st.integers(0, 253_402_300_799_999))
def test_timestamps_keep_their_milliseconds(moment: int) -> None:
    """To the year 9999."""
    assert parse_timestamp(format_timestamp(moment)) == moment


def test_a_payload_without_a_json_form_is_an_error_of_the_sender() -> None:
    """NaN does not leave."""
    sent = Envelope(
        message_id=new_message_id(), message_type="event", sender_id="a", region="r", timestamp=0, sequence=0,
        payload={"x": float("nan")},
    )  # fmt: skip
    with pytest.raises(MessageRefused, match="not finite"):
        sent.to_bytes()


def test_half_a_character_is_refused_at_both_ends() -> None:
    """JSON can escape half a surrogate pair, but no file, database or terminal can take it."""
    for text in (r'{"name": "\ud800"}', r'{"\udc00": 1}', r'{"names": [["\uDBFF x"]]}'):
        payload = json.loads(text)
        assert "half a surrogate pair" in refusal(json.dumps(document(payload=payload)).encode()).message
        assert "half a surrogate pair" in refusal(json.dumps({**document(), "more": payload}).encode()).message
        with pytest.raises(MessageRefused, match="half a surrogate pair"):
            replace(parse(json.dumps(document()).encode()), payload=payload).to_bytes()
    assert parse(json.dumps(document(payload={"name": "\U0001f600"})).encode()).payload == {"name": "\U0001f600"}


def nested(levels: int) -> bytes:
    """A good envelope with so many levels in all, the envelope and its payload included."""
    text = json.dumps(document(payload={"x": 7}))
    return text.replace("7}", "[" * (levels - 2) + "]" * (levels - 2) + "}").encode()


def test_nesting_is_limited() -> None:
    """A peer with a good key cannot make a handler recurse too deeply."""
    assert parse(nested(32)).payload
    assert "32 levels" in refusal(nested(33)).message
    assert refusal(nested(988)).reason is MessageRefusal.MALFORMED


@pytest.mark.parametrize("number", ["1e999", "-1e999", str(2**64), str(-(2**63) - 1)])
def test_numbers_that_json_readers_cannot_hold_are_refused(number: str) -> None:
    """Infinity would be printed as invalid JSON."""
    data = json.dumps(document(payload={"x": [7]})).replace("[7]", f"[{number}]").encode()
    assert refusal(data).reason is MessageRefusal.MALFORMED


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1.5e300])
def test_numbers_at_the_limit_are_kept(number: float) -> None:
    """64-bit integers and finite floating-point numbers."""
    assert parse(json.dumps(document(payload={"x": [number]})).encode()).payload == {"x": [number]}
