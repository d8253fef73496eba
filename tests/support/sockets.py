"""What waits in TCP sockets of the loopback address, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

from tests.support.clients import wait_until

ESTABLISHED = "01"


def unread_at(port: int) -> int:
    """Return the bytes that a listener's connections have received and the listener's process has not read."""
    return _received(1, port)


def wait_for_stall(port: int, least: int = 100_000) -> None:
    """Return when connections to the port have `least` bytes unread, and nobody reads them."""
    looks: list[int] = []

    def stands() -> bool:
        looks.append(_received(2, port))
        return len(looks) > 20 and looks[-1] >= least and len(set(looks[-20:])) == 1

    wait_until(stands)


def _received(column: int, port: int) -> int:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    chosen = [row for row in rows if row[column].endswith(f":{port:04X}") and row[3] == ESTABLISHED]
    return sum(int(row[4].partition(":")[2], 16) for row in chosen)
