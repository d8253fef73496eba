"""Lines of a recording."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import RecordingError
from mqttkit.messages import Message, Properties
from mqttkit.recorder.lines import Gap, Header, Recorded, gap_line, header_line, line_formatter, parse_line
from tests.support.strategies import messages

HEADER = Header(1_700_000_000_000_000_000, 5, "localhost:1883", 5, ("a/#", "$SYS/#"), 2)


@given(st.lists(messages, max_size=4), st.integers(1, 2**62), st.integers(0, 2**62))
def test_each_message_comes_back_as_it_was(sent: list[Message], received: int, monotonic: int) -> None:
    """Topic, payload, flags and properties, with both times, whatever the bytes are."""
    lines = line_formatter()(sent, received, monotonic).split(b"\n")
    assert lines.pop() == b""
    found = [parse_line(line) for line in lines]
    expected = [
        Recorded(each if each.properties != Properties() else each._replace(properties=None), received, monotonic)
        for each in sent
    ]
    assert found == expected


def test_header_and_gap_come_back() -> None:
    """Both are JSON objects with a key of their own."""
    gap = Gap("dropped", 12, 5, 9)
    assert parse_line(header_line(HEADER).strip()) == HEADER
    assert parse_line(gap_line(gap).strip()) == gap


def test_a_newer_format_is_an_error_that_names_both_versions() -> None:
    """An old mqttkit must not misread a new file."""
    line = header_line(replace(HEADER, format=2)).strip()
    with pytest.raises(RecordingError, match=r"format 2.*reads format 1"):
        parse_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"topic":"a","payload":""}',
        b'{"payload":"","received_ns":1}',
        b'{"topic":"a","payload_base64":"*","received_ns":1}',
        b'{"topic":"a","payload":"","received_ns":1,"properties":{"odd":1}}',
        b'{"mqttkit_gap":{"reason":1}}',
        b'{"topic":"a","payload":"","received_ns":1,"properties":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
    ],
)
def test_anything_else_is_an_error(line: bytes) -> None:
    """Never another exception, and never a guess."""
    with pytest.raises(RecordingError, match="not a line of a recording"):
        parse_line(line)
