"""The journal of messages without a receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqttkit.controller.handover import outbox as module
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.errors import StoreFailed

ENVELOPE = b'{"text":"h\xc3\xa4"}'


def contents(box: ReportOutbox) -> list[tuple[str, object]]:
    """Return topic and envelope of each message."""
    return [(topic, json.loads(envelope)) for topic, envelope in box.load()]


def test_messages_survive_a_restart_in_their_order(tmp_path: Path) -> None:
    """Removed messages do not come back."""
    box = ReportOutbox(tmp_path / "box")
    for name in ("a", "b", "c"):
        box.add(name, f"t/{name}", ENVELOPE)
    box.remove(["b", "unknown"])
    box.close()
    box.close()
    again = ReportOutbox(tmp_path / "box")
    assert contents(again) == [("t/a", {"text": "hä"}), ("t/c", {"text": "hä"})]


def test_an_incomplete_last_line_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A crash or a full disk leaves one; later messages are not joined to it."""
    box = ReportOutbox(tmp_path / "box")
    box.add("a", "t", ENVELOPE)
    box.close()
    with (tmp_path / "box").open("ab") as stream:
        stream.write(b'["+","b","t",{"te')
    again = ReportOutbox(tmp_path / "box")
    again.add("c", "t/c", ENVELOPE)
    again.close()
    assert [topic for topic, _ in contents(ReportOutbox(tmp_path / "box"))] == ["t", "t/c"]
    assert "incomplete line" in caplog.text


def test_the_journal_does_not_grow_with_the_messages_that_were_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again when most of it is not needed."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 1_000)
    box = ReportOutbox(tmp_path / "box")
    box.add("kept", "t/kept", ENVELOPE)
    for number in range(1_000):
        box.add(str(number), "t", ENVELOPE)
        box.remove([str(number)])
    assert (tmp_path / "box").stat().st_size < 1_200
    assert contents(box) == [("t/kept", {"text": "hä"})]
    box.add("last", "t/last", ENVELOPE)
    box.close()
    assert len(contents(ReportOutbox(tmp_path / "box"))) == 2


def test_a_file_that_fails_is_an_error(tmp_path: Path) -> None:
    """With its path; nothing is said to be kept that is not."""
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreFailed, match="cannot open the outbox"):
        ReportOutbox(tmp_path / "directory")
    box = ReportOutbox(tmp_path / "box")
    box.close()
    with pytest.raises(StoreFailed, match="cannot write the outbox"):
        box.add("a", "t", ENVELOPE)
    assert box.load() == []
