"""A closed stdout ends a command with 0; every other broken pipe is an error."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from mqttkit.cli import _run


@pytest.mark.parametrize(("reader", "code"), [(True, 1), (False, 0)])
def test_a_broken_pipe_is_success_only_if_stdout_has_no_reader(
    reader: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """EPIPE may come from a socket or another process too."""

    def fail() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    read_end, write_end = os.pipe()
    if not reader:
        os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert _run(fail) == code
    if reader:
        os.close(read_end)
    assert capsys.readouterr().err == ("mqttkit: Broken pipe\n" if reader else "")
