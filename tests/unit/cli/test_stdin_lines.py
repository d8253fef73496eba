"""Lines of stdin as `pub -l` reads them."""

from __future__ import annotations

import io
import itertools
import sys

import pytest

from mqttkit.cli import pub
from mqttkit.errors import UsageError


def lines_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Return the blocks of lines that are read from `data`, four bytes at a time."""
    monkeypatch.setattr(pub, "READ_BYTES", 4)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return list(pub._lines())


def test_lines_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one may have no line feed, and any may be empty."""
    blocks = lines_of(b"one\n\nthree is longer\nend", monkeypatch)
    assert list(itertools.chain(*blocks)) == [b"one", b"", b"three is longer", b"end"]


def test_an_endless_line_is_an_error_before_memory_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of exactly the maximum passes."""
    monkeypatch.setattr(pub, "MAX_PAYLOAD", 10)
    assert lines_of(b"0123456789\n0123456789", monkeypatch) == [[b"0123456789"], [b"0123456789"]]
    with pytest.raises(UsageError, match="a line of stdin has more than 10 bytes"):
        lines_of(b"0123456789\n01234567890123", monkeypatch)
