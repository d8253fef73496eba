"""Nanoseconds since the epoch as text. Pure, except for the machine's time zone."""

from __future__ import annotations

import time

SECOND = 1_000_000_000
"""Nanoseconds in a second."""


def utc(when: int) -> str:
    """Return `when` (ns since the epoch) as 2026-01-11T10:30:45.123456Z (RFC 3339)."""
    seconds, rest = divmod(when, SECOND)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def local(when: int) -> str:
    """Return `when` as 2026-01-11T11:30:45.123456+0100, in the machine's time zone."""
    seconds, rest = divmod(when, SECOND)
    there = time.localtime(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', there)}.{rest // 1000:06d}{time.strftime('%z', there)}"
