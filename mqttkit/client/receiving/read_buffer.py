"""Bytes received and not parsed yet. Pure."""

from __future__ import annotations


class ReadBuffer:
    """Chunks of the stream, joined only once they hold a whole packet: the cost is linear in the packet's size."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 1

    def add(self, chunk: bytes) -> None:
        """Append the bytes of one read."""
        self._chunks.append(chunk)
        self._have += len(chunk)

    def take(self) -> bytes:
        """Return all bytes if they hold a whole packet; otherwise return none and keep them."""
        if self._have < self._need:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self.clear()
        return data

    def put_back(self, rest: bytes, need: int) -> None:
        """Keep the beginning of a packet that takes `need` bytes or more."""
        if rest:
            self._chunks.append(rest)
            self._have = len(rest)
        self._need = max(need, 1)

    def clear(self) -> None:
        """Drop everything: the connection has ended."""
        self._chunks.clear()
        self._have = 0
        self._need = 1
