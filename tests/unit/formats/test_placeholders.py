"""Placeholders in repeated messages."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.formats.placeholders import fill


def test_each_placeholder_has_its_value() -> None:
    """The number, the time in UTC, and a number from 0 to 1."""
    filled = fill(b'{"n":{{n}},"t":"{{now}}","v":{{random}}}', 7).decode()
    pattern = r'\{"n":7,"t":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","v":[01]\.\d{6}\}'
    assert re.fullmatch(pattern, filled)


@given(st.binary().filter(lambda text: b"{{" not in text))
def test_other_text_stays(text: bytes) -> None:
    """Bytes without a placeholder are not changed."""
    assert fill(text, 1) == text


def test_other_names_stay() -> None:
    """Only the three names are placeholders."""
    assert fill(b"{{N}} {{ n }} {n} {{name}}", 1) == b"{{N}} {{ n }} {n} {{name}}"
