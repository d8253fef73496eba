"""Files in zstd's seekable format."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import RecordingError
from mqttkit.recorder.seekable import SeekableFile, SeekableWriter


def content(path: Path) -> list[bytes]:
    """Return the decompressed frames."""
    with SeekableFile(path) as file:
        return [b"".join(file.chunks(index)) for index in range(len(file.frames))]


def write(path: Path, *parts: bytes, frame_bytes: int = 100) -> None:
    """Write a finished file."""
    writer = SeekableWriter(path, frame_bytes=frame_bytes)
    for part in parts:
        writer.write(part)
    writer.close()


def test_a_frame_ends_when_it_has_reached_its_size(tmp_path: Path) -> None:
    """At the end of the write that fills it, so that no line is split between frames."""
    path = tmp_path / "a.zst"
    write(path, b"x" * 60, b"y" * 60, b"z" * 10)
    assert content(path) == [b"x" * 60 + b"y" * 60, b"z" * 10]


def test_any_zstd_program_reads_it(tmp_path: Path) -> None:
    """The table is a frame that others skip."""
    path = tmp_path / "a.zst"
    write(path, b"x" * 150, b"y" * 150)
    with path.open("rb") as packed:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        assert reader.read() == b"x" * 150 + b"y" * 150


def test_the_table_gives_offset_and_size_of_each_frame(tmp_path: Path) -> None:
    """And with the table gone, the walk over block headers finds the same frames."""
    path, killed = tmp_path / "a.zst", tmp_path / "b.zst"
    write(path, b"a" * 150, b"b" * 250, bytes(range(256)) * 4)
    with SeekableFile(path) as file:
        frames, finished = file.frames, file.finished
    assert finished
    assert [frame.size for frame in frames] == [150, 250, 1024]
    end = frames[-1].offset + frames[-1].compressed
    killed.write_bytes(path.read_bytes()[:end])
    with SeekableFile(killed) as file:
        assert not file.finished
        assert [(frame.offset, frame.compressed) for frame in file.frames] == [
            (frame.offset, frame.compressed) for frame in frames
        ]
        assert all(frame.complete for frame in file.frames)


def test_everything_flushed_is_readable_without_an_end(tmp_path: Path) -> None:
    """As after SIGKILL: no end of frame, no table."""
    path = tmp_path / "a.zst"
    writer = SeekableWriter(path, frame_bytes=100)
    writer.write(b"whole" * 30)
    writer.write(b"flushed")
    writer.flush()
    writer.write(b"not flushed")
    assert content(path) == [b"whole" * 30, b"flushed"]
    writer.close()
    assert content(path) == [b"whole" * 30, b"flushednot flushed"]


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_gives_a_prefix_or_an_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Never anything that was not written."""
    directory = tmp_path_factory.mktemp("cut")
    path, short = directory / "a.zst", directory / "b.zst"
    data = [bytes([number]) * 7 + str(number).encode() * 30 for number in range(20)]
    write(path, *data)
    whole = b"".join(content(path))
    short.write_bytes(path.read_bytes()[:cut])
    try:
        found = b"".join(content(short))
    except RecordingError:
        return
    assert whole.startswith(found)


def test_a_damaged_frame_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    """A flipped block header in the middle of a finished file."""
    path = tmp_path / "a.zst"
    write(path, bytes(range(256)), bytes(range(256)))
    data = bytearray(path.read_bytes())
    with SeekableFile(path) as file:
        second = file.frames[1].offset
    data[second] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(RecordingError, match=f"damaged at byte {second}"):
        content(path)


@pytest.mark.parametrize("data", [b"", b"no zstd", b"\x28\xb5\x2f\xfd"])
def test_what_is_not_zstd_is_an_error(tmp_path: Path, data: bytes) -> None:
    """Empty, text, and a frame that ends within its header."""
    path = tmp_path / "a.zst"
    path.write_bytes(data)
    try:
        found = content(path)
    except RecordingError as error:
        assert "not a zstd file" in str(error)  # the other outcome is an empty last frame
    else:
        assert found == [b""]


def test_a_writer_never_overwrites(tmp_path: Path) -> None:
    """An existing file stays as it is."""
    path = tmp_path / "a.zst"
    path.write_bytes(b"mine")
    with pytest.raises(RecordingError, match="exists already"):
        SeekableWriter(path)
    assert path.read_bytes() == b"mine"


def test_nothing_to_close_twice(tmp_path: Path) -> None:
    """Closing again writes no second table."""
    writer = SeekableWriter(tmp_path / "a.zst")
    writer.write(b"x")
    writer.close()
    size = (tmp_path / "a.zst").stat().st_size
    writer.close()
    assert (tmp_path / "a.zst").stat().st_size == size == writer.size


def test_a_full_disk_is_one_error_and_the_rest_stays_readable(tmp_path: Path) -> None:
    """At the write that fails, and not again when the file is closed."""
    path, before = tmp_path / "a.zst", resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = SeekableWriter(path, frame_bytes=1_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, before[1]))
        with pytest.raises(RecordingError, match="cannot write"):
            for _ in range(100):
                writer.write(os.urandom(1_000))
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [len(frame) for frame in content(path)[:7]] == [1_000] * 7
