"""No control character from the network reaches a terminal."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.formats.visible import visible, visible_bytes, visible_json, visible_lines


@given(st.text() | st.text(alphabet=st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp"))))
def test_every_character_is_printable(text: str) -> None:
    assert visible(text).isprintable()
    assert visible_lines(text).replace("\n", "").replace("\t", "").isprintable()


@given(st.text().filter(str.isprintable))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == visible_lines(text) == text


@given(st.binary())
def test_bytes_become_printable_utf8(data: bytes) -> None:
    shown = visible_bytes(data).decode()
    assert shown.replace("\n", "").replace("\t", "").isprintable()


def test_escapes_name_the_character() -> None:
    assert visible("a\x1b[2J\n\t\r\u202e\x9b") == "a\\x1b[2J\\n\\t\\r\\u202e\\x9b"
    assert visible("\U000e0041") == "\\U000e0041"


def test_json_keeps_its_meaning() -> None:
    text = json.dumps({"a\x9b": "\u202e\udcff é\n"}, ensure_ascii=False, indent=1)
    assert visible_json(text).replace("\n", "").isprintable()
    assert json.loads(visible_json(text)) == json.loads(text)


def test_lines_keep_line_feeds_and_tabs() -> None:
    assert visible_lines("a\n\tb\r\x07") == "a\n\tb\\r\\x07"


def test_bytes_that_are_not_utf8_keep_their_value() -> None:
    assert visible_bytes(b"\xff\xfe ok \x1b") == b"\\xff\\xfe ok \\x1b"
