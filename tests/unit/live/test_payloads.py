"""Payloads for the eye."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.live.payloads import (
    BARS,
    MAX_LINES,
    Shape,
    difference,
    numbers,
    one_line,
    payload_lines,
    property_lines,
    sparkline,
)
from mqttkit.messages import Message, Properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), st.sampled_from(Shape))
def test_lines_are_printable(payload: bytes, shape: Shape) -> None:
    """Whatever a peer sends, no control character reaches the terminal."""
    assert all(line.isprintable() for line in payload_lines(payload, shape))
    assert one_line(payload).isprintable()
    assert all(line.isprintable() for line in difference(payload, b"other"))
    numbers(payload)


def test_json_is_indented_and_binary_is_a_hex_dump() -> None:
    assert payload_lines(b'{"a":[1,"\xc3\xa9"]}') == ["{", '  "a": [', "    1,", '    "é"', "  ]", "}"]
    assert payload_lines(b"\xff\x00A") == ["000000  ff 00 41                                         ..A"]
    assert payload_lines(b"21.50") == ["21.50"]
    assert payload_lines(b"") == ["(empty)"]
    assert payload_lines(b"hi", Shape.HEX) == ["000000  68 69                                            hi"]
    assert payload_lines(b"\xff!", Shape.TEXT) == ["\\xff!"]


def test_large_payloads_are_shortened() -> None:
    assert payload_lines(b"x\n" * 40_000)[-2:] == ["… 32,369 more lines", "… 14,464 more bytes"]
    assert len(payload_lines(b"\n" * 5_000)) == MAX_LINES + 1


def test_text_cut_within_a_character_stays_text() -> None:
    assert payload_lines(("€" * 30_000).encode())[0].startswith("€")


def test_hostile_json_is_text() -> None:
    assert payload_lines(b"[" * 10_000)[0] == "[" * 10_000
    assert payload_lines(b'{"a":' + b"9" * 5_000 + b"}")


def test_difference_names_changed_lines() -> None:
    assert difference(b'{"a":1,"b":2}', b'{"a":1,"b":3}') == ['-  "b": 2', '+  "b": 3']
    assert difference(b"same", b"same") == []


def test_numbers_of_a_payload() -> None:
    assert numbers(b"21.5") == {"": 21.5}
    assert numbers(b'{"unit":"C","on":true,"value":3,"x":1e400,"y":2}') == {"value": 3.0, "y": 2.0}
    assert numbers(b'"text"') == numbers(b"\xff") == numbers(b"[1]") == {}
    assert numbers(b"1" + b"0" * 400) == {}


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(1, 80))
def test_a_sparkline_has_one_bar_a_value(values: list[float], width: int) -> None:
    bars = sparkline(values, width)
    assert len(bars) == min(width, len(values))
    assert set(bars) <= set(BARS)


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([0, 5, 10], 10) == "▁▅█" or sparkline([0, 5, 10], 10) == "▁▄█"
    assert sparkline([3, 3], 10) == "▁▁"
    assert sparkline([], 10) == sparkline([1], 0) == ""


def test_properties_are_lines() -> None:
    message = Message("a", b"", 1, True, properties=Properties(content_type="x\x1b", user_properties=(("k", "v"),)))
    assert property_lines(message) == ["QoS 1, retained", "content type: x\\x1b", "k: v"]
