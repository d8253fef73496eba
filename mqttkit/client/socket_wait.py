"""Wait for a socket or a wake-up."""

from __future__ import annotations

import contextlib
import select
import socket


def wait(descriptor: int, wants: int, waker: socket.socket | None, timeout: float) -> int:
    """Wait up to `timeout` seconds; return the descriptor's events, and drain the wake-up bytes of `waker`.

    `wants` and what is returned are those of poll, which unlike select takes descriptors above 1,023.
    """
    poller = select.poll()
    poller.register(descriptor, wants)
    if waker is not None:
        poller.register(waker.fileno(), select.POLLIN)
    found = dict(poller.poll(timeout * 1000))
    if waker is not None and waker.fileno() in found:
        with contextlib.suppress(BlockingIOError):
            waker.recv(10_000)
    return found.get(descriptor, 0)
