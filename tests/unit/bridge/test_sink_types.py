"""Sink addresses and dead letters."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.bridge.metric import MetricRefusal
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import SinkOptions, dead_letter
from mqttkit.errors import MissingPart, UsageError
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


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("redis://h", "redis", "redis"),
        ("postgresql://h/d", "psycopg", "postgresql"),
        ("nats://h/S", "nats", "nats"),
        ("kafka://h/t", "confluent_kafka", "kafka"),
    ],
)
def test_library_that_is_missing_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    """Before anything is stored."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPart) as caught, contextlib.closing(open_sink(address, SinkOptions())) as sink:
        sink.open()
    assert f"pip install 'mqttkit[{extra}]'" in str(caught.value.hint)


def test_sink_imports_no_library_of_another_sink(tmp_path: Path) -> None:
    """A bridge into a file or over HTTP needs none of them."""
    code = f"""
import contextlib, sys
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import SinkOptions
options = SinkOptions(dead_letters={str(tmp_path / "ledger.db")!r})
addresses = ["sqlite:{tmp_path}/m.db", "jsonl:{tmp_path}/m", "http://h/", "influx://h/d", "victoria://h"]
for address in addresses:
    with contextlib.closing(open_sink(address, options)) as sink:
        sink.open()
print([name for name in ("redis", "psycopg", "nats", "confluent_kafka", "jmespath") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
