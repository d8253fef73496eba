"""Progress on stderr: percentage and time left."""

from __future__ import annotations

import io
import re
import sys
import threading
from pathlib import Path

import pytest

from mqttkit.cli.output import progress as module
from mqttkit.cli.output.progress import progress, progress_text, share_of_stdin


@pytest.mark.parametrize(
    ("share", "elapsed", "text"),
    [
        (0.0, 5.0, "  0 %"),
        (0.005, 5.0, "  0 %"),
        (0.25, 10.0, " 25 %, 0:30 left"),
        (0.5, 65.0, " 50 %, 1:05 left"),
        (0.01, 100.0, "  1 %, 2:45:00 left"),
        (1.5, 10.0, "100 %, 0:00 left"),
    ],
)
def test_text(share: float, elapsed: float, text: str) -> None:
    """The time left is that of the pace so far."""
    assert progress_text(share, elapsed) == text


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_line_and_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is asked while the body runs; the last thing written clears the line."""
    screen, asked = Screen(), threading.Event()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "INTERVAL", 0.001)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.0)

    def share() -> float:
        if screen.getvalue():
            asked.set()
        return 0.5

    with progress(share, what="copying"):
        assert asked.wait(60)
    assert re.match(r" 50 %, 0:\d\d left, copying\x1b\[K\r", screen.getvalue())
    assert screen.getvalue().endswith("\x1b[K")


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the share is never asked."""
    with progress(lambda: 1 / 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_share_of_a_file_that_is_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the position in the file; a pipe has none."""
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 1000)
    with path.open("rb", buffering=0) as file:
        monkeypatch.setattr(sys, "stdin", file)
        share = share_of_stdin()
        assert share is not None
        file.read(250)
        assert share() == 0.25
    monkeypatch.setattr(sys, "stdin", io.StringIO("x"))
    assert share_of_stdin() is None
