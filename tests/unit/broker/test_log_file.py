"""A log file: its tail, its rotation while a broker appends to it, and a follower that misses no line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mqttkit.broker.backends.log_file import BLOCK, append, log_lines, rotate_while_written


@pytest.mark.parametrize("tail", [0, 1, 3, 2_000, 9_999_999])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_tail_is_that_of_the_whole_file(tmp_path: Path, tail: int, end: str):
    """Also across the blocks that are read from the end."""
    path = tmp_path / "broker.log"
    lines = [f"line {number} {'x' * (number % 97)}" for number in range(3_000)]
    path.write_text("\n".join(lines) + end)
    assert path.stat().st_size > 2 * BLOCK
    assert list(log_lines(path, tail=tail)) == lines[max(0, len(lines) - tail) :]


def test_a_missing_log_has_no_lines(tmp_path: Path):
    assert list(log_lines(tmp_path / "broker.log", tail=5)) == []


def test_the_tail_of_a_large_log_reads_only_its_end(tmp_path: Path):
    """A sparse file of 10 GB would not fit into memory."""
    path = tmp_path / "broker.log"
    with path.open("wb") as file:
        file.truncate(10 << 30)
        file.seek(0, 2)
        file.write(b"\none\ntwo\n")
    assert list(log_lines(path, tail=2)) == ["one", "two"]


def test_a_rotation_keeps_every_line_and_the_file_that_the_broker_writes_to(tmp_path: Path):
    path = tmp_path / "broker.log"
    with path.open("ab", buffering=0) as broker:
        broker.write(b"old\n")
        assert not rotate_while_written(path, limit=4)
        broker.write(b"older\n")
        assert rotate_while_written(path, limit=4)
        broker.write(b"new\n")
    assert path.read_text() == "new\n"
    assert (tmp_path / "broker.log.1").read_text() == "old\nolder\n"
    assert (tmp_path / "broker.log.1").stat().st_mode & 0o777 == 0o600


def test_a_follower_sees_the_lines_after_a_rotation_and_after_a_new_file(tmp_path: Path):
    """It ends when the broker's directory is removed."""
    directory = tmp_path / "broker"
    directory.mkdir()
    path = directory / "broker.log"
    append(path, [b"one\n"])
    found: list[str] = []
    arrived = threading.Condition()

    def follow() -> None:
        for line in log_lines(path, follow=True):
            with arrived:
                found.append(line)
                arrived.notify_all()

    follower = threading.Thread(target=follow)
    follower.start()

    def expect(*lines: str) -> None:
        with arrived:
            assert arrived.wait_for(lambda: found == list(lines), timeout=60), found

    expect("one")
    assert rotate_while_written(path, limit=1)
    append(path, [b"2\n"])
    expect("one", "2")
    path.rename(directory / "broker.log.1")
    append(path, [b"three\n"])
    expect("one", "2", "three")
    path.unlink()
    (directory / "broker.log.1").unlink()
    directory.rmdir()
    follower.join(60)
    assert not follower.is_alive()
