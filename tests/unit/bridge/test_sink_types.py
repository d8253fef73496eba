"""Sink addresses and dead letters."""

from __future__ import annotations

import hashlib

import pytest

from mqttkit.bridge.metric import MetricRefusal
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import SinkOptions, dead_letter
from mqttkit.errors import UsageError
from mqttkit.messages import Message

A, B, C = (f"6f1d7c1e-0000-4000-8000-00000000000{n}" for n in "abc")


def test_dead_letter_keeps_size_and_digest_of_the_whole() -> None:
    """A long payload is cut, its size and SHA-256 are the whole one's; any topic can be written down."""
    letter = dead_letter(Message("x\udcff\0" + "y" * 2_000, b"z" * 100_000), MetricRefusal.JSON_SYNTAX, "d\0\ud800", 5)
    assert letter.topic.startswith("x\\xff\\x00y")
    assert len(letter.topic) < 1_100
    assert (letter.size, len(letter.body), letter.whole) == (100_000, 65_536, False)
    assert letter.sha256 == hashlib.sha256(b"z" * 100_000).hexdigest()
    assert letter.detail.isprintable()


@pytest.mark.parametrize("address", ["", "sqlite", "sqlite:", "ftp://x", "metrics.db"])
def test_sink_address_that_is_none_lists_the_kinds(address: str) -> None:
    """One error of usage, with the kinds that there are."""
    with pytest.raises(UsageError, match="sqlite:PATH"):
        open_sink(address, SinkOptions())
