"""Files in zstd's seekable format: independent frames, and a table of them at the end.

`zstd -dc` reads such a file like any other. The table is a skippable frame at the end (zstd, contrib/seekable_format):
for each frame its compressed and its decompressed size. A file whose writer was killed has no table; its frames are
then found by walking the block headers (RFC 8878, 3.1.1.2), which needs no decompression. The last frame may be
incomplete: everything up to the last flush is readable.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mqttkit.errors import MissingPart, RecordingError

FRAME_BYTES = 1024 * 1024
"""Decompressed bytes after which a frame ends."""
LEVEL = 3
"""Compression level: zstd's own default."""
FIRST_READ_BYTES, READ_BYTES = 8 * 1024, 128 * 1024
"""Compressed bytes of a frame that are read at a time. Few at first: a search needs only a frame's first line."""

FRAME_MAGIC = 0xFD2FB528
SKIPPABLE_MAGIC = 0x184D2A5E
"""The skippable frame of the seek table; 0x184D2A50 to 0x184D2A5F are skippable (RFC 8878, 3.1.2)."""
SKIPPABLE_RANGE = range(0x184D2A50, 0x184D2A60)
SEEKABLE_MAGIC = 0x8F92EAB1
FOOTER = struct.Struct("<IBI")
"""Number of frames, descriptor (0: no checksums), magic number."""
ENTRY = struct.Struct("<II")
SKIPPABLE_HEADER = struct.Struct("<II")
MAX_FRAMES = 0x8000000
"""Maximum number of frames that the format allows."""
RAW_BLOCK, RLE_BLOCK, COMPRESSED_BLOCK = 0, 1, 2


class Frame(NamedTuple):
    """One frame of a file."""

    offset: int
    """Byte at which it starts."""
    compressed: int
    """Its length in the file."""
    size: int | None
    """Its decompressed length; None if the file has no table."""
    complete: bool = True
    """False for a last frame that its writer did not finish."""


def library() -> Any:
    """Return the zstandard module; raise MissingPart if it is not installed."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingPart(
            "recordings need the package zstandard", hint="Install it with: pip install 'mqttkit[record]'"
        ) from error
    return zstandard


class SeekableWriter:
    """Writes a new file. One thread at a time.

    Everything up to the last `flush` survives the end of the process by SIGKILL. Raises RecordingError if the file
    cannot be written.
    """

    def __init__(self, path: Path, *, frame_bytes: int = FRAME_BYTES, level: int = LEVEL) -> None:
        """Create the file; raise RecordingError if that is not possible, MissingPart without zstandard."""
        zstandard = library()
        self._compressor: Any = zstandard.ZstdCompressor(level=level)
        self._flush_block: int = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._path = path
        self._failed = False
        try:
            self._file: BinaryIO = path.open("xb", buffering=0)
        except FileExistsError:
            raise RecordingError(f"{path} exists already", hint="Choose another name, or remove it") from None
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror}") from error
        self._frame_bytes = frame_bytes
        self._frames: list[tuple[int, int]] = []
        self._object: Any = None
        self._raw = self._packed = 0
        self._unflushed = False
        self.size = 0
        """Bytes written to the file so far."""

    def write(self, data: bytes, *, split: bool = True) -> None:
        """Compress `data` into the current frame. With `split`, a frame that has reached its size ends here."""
        if self._object is None:
            self._object = self._compressor.compressobj()
            self._raw = self._packed = 0
        self._store(self._object.compress(data))
        self._raw += len(data)
        self._unflushed = True
        if split and self._raw >= self._frame_bytes:
            self.end_frame()

    def flush(self) -> None:
        """Hand everything written so far to the operating system, in a form that can be decompressed."""
        if self._object is not None and self._unflushed and not self._failed:
            self._store(self._object.flush(self._flush_block))
            self._unflushed = False

    def end_frame(self) -> None:
        """End the current frame, so that what follows can be read without it."""
        if self._object is None:
            return
        self._store(self._object.flush())
        self._frames.append((self._packed, self._raw))
        self._object = None
        self._unflushed = False

    def close(self) -> None:
        """End the last frame, write the table, sync and close. Idempotent."""
        if self._file.closed:
            return
        try:
            if not self._failed:
                self.end_frame()
                self._store(_table(self._frames))
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _store(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                written = self._file.write(rest)
                rest = rest[written:]
        except OSError as error:
            self._failed = True  # the compressor cannot repeat what it has given out
            raise RecordingError(f"cannot write {self._path}: {error.strerror}") from error
        self._packed += len(data)
        self.size += len(data)


def _table(frames: list[tuple[int, int]]) -> bytes:
    if len(frames) > MAX_FRAMES:
        return b""
    entries = b"".join(ENTRY.pack(*frame) for frame in frames)
    body = entries + FOOTER.pack(len(frames), 0, SEEKABLE_MAGIC)
    return SKIPPABLE_HEADER.pack(SKIPPABLE_MAGIC, len(body)) + body


class SeekableFile:
    """Reads such a file. One thread at a time. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file and find its frames;

        raise RecordingError if it cannot be read, MissingPart without zstandard.
        """
        self._zstandard = library()
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            table = self._read_table()
            self.finished = table is not None
            """True if the writer closed the file, so that nothing is missing at its end."""
            self.frames = table if table is not None else list(self._walk())
        except BaseException:
            self._file.close()
            raise
        if not self.frames and not self.finished:
            self._file.close()
            raise RecordingError(f"{path} is not a zstd file", hint="Recordings end in .jsonl.zst")

    def __enter__(self) -> SeekableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def chunks(self, index: int) -> Iterator[bytes]:
        """Yield the decompressed content of a frame in chunks; an incomplete one up to its last flush."""
        frame = self.frames[index]
        decompressor = self._zstandard.ZstdDecompressor().decompressobj()
        left, ahead = frame.compressed, FIRST_READ_BYTES
        while left > 0:
            packed = self._read_at(frame.offset + frame.compressed - left, min(left, ahead))
            if not packed:
                return
            left, ahead = left - len(packed), min(2 * ahead, READ_BYTES)
            try:
                data = decompressor.decompress(packed)
            except self._zstandard.ZstdError as error:
                if not frame.complete:
                    return
                raise RecordingError(f"{self.path} is damaged at byte {frame.offset}: {error}") from error
            if data:
                yield data

    def _read_table(self) -> list[Frame] | None:
        """Return the frames that the table at the end names, or None if the file has no valid one."""
        if self._size < SKIPPABLE_HEADER.size + FOOTER.size:
            return None
        self._file.seek(self._size - FOOTER.size)
        count, descriptor, magic = FOOTER.unpack(self._file.read(FOOTER.size))
        width = ENTRY.size + (4 if descriptor & 0x80 else 0)
        length = count * width + FOOTER.size
        start = self._size - length - SKIPPABLE_HEADER.size
        if magic != SEEKABLE_MAGIC or start < 0:
            return None
        self._file.seek(start)
        if SKIPPABLE_HEADER.unpack(self._file.read(SKIPPABLE_HEADER.size)) != (SKIPPABLE_MAGIC, length):
            return None
        table = self._file.read(count * width)
        frames, offset = [], 0
        for place in range(0, len(table), width):
            compressed, size = ENTRY.unpack_from(table, place)
            frames.append(Frame(offset, compressed, size))
            offset += compressed
        return frames if offset == start else None

    def _walk(self) -> Iterator[Frame]:
        """Yield the frames of a file without a table, found by their block headers."""
        offset = 0
        while offset + SKIPPABLE_HEADER.size <= self._size:
            magic, length = SKIPPABLE_HEADER.unpack(self._read_at(offset, SKIPPABLE_HEADER.size))
            if magic in SKIPPABLE_RANGE:
                offset += SKIPPABLE_HEADER.size + length
                continue
            if magic != FRAME_MAGIC:
                return
            end = self._frame_end(offset)
            complete = end is not None and end <= self._size
            compressed = (end if end is not None and complete else self._size) - offset
            yield Frame(offset, compressed, None, complete)
            if not complete:
                return
            offset += compressed

    def _frame_end(self, offset: int) -> int | None:
        """Return the byte behind the frame at `offset`, or None if the file ends before that is known."""
        try:
            header = self._zstandard.frame_header_size(self._read_at(offset, 18))
            checksum = self._zstandard.get_frame_parameters(self._read_at(offset, 18)).has_checksum
        except self._zstandard.ZstdError:
            return None
        place = offset + int(header)
        while True:
            block = self._read_at(place, 3)
            if len(block) < 3:
                return None
            fields = int.from_bytes(block, "little")
            last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
            place += 3 + (1 if kind == RLE_BLOCK else size)
            if kind > COMPRESSED_BLOCK:
                return None
            if last:
                return place + (4 if checksum else 0)

    def _read_at(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(count)
