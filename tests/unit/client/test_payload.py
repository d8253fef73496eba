"""What a payload may be."""

from __future__ import annotations

import pytest

from mqttkit.client.packets.encoding import encode_payload
from mqttkit.messages import Message


@pytest.mark.parametrize("payload", ["é", "é".encode(), bytearray("é".encode()), memoryview("é".encode())])
def test_bytes_and_text_are_payloads(payload: object) -> None:
    """Text is sent as UTF-8, and `Message.text` returns it."""
    assert encode_payload(payload) == b"\xc3\xa9"
    assert Message("t", encode_payload(payload)).text == "é"


def test_text_of_a_binary_payload_replaces_what_is_not_utf_8() -> None:
    """The payload itself is unchanged."""
    assert Message("t", b"\xffA").text == "\ufffdA"


@pytest.mark.parametrize(
    ("payload", "instead"), [(5, "str"), (True, "str"), (None, "str"), ({"a": 1}, "json.dumps"), ([1], "json.dumps")]
)
def test_anything_else_is_an_error_that_says_what_to_publish(payload: object, instead: str) -> None:
    """bytes(5) would be five NUL bytes."""
    with pytest.raises(
        TypeError,
        match=f"a payload is bytes or str, not {type(payload).__name__}: publish {instead}[(]payload[)] instead",
    ):
        encode_payload(payload)
