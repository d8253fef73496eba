"""Sockets: connect, wait, shut down. Nothing here knows MQTT."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any


def open_stream(
    address: tuple[str, int],
    timeout: float,
    watch: Callable[[socket.socket], None] | None = None,
    *,
    source: str | None = None,
) -> socket.socket:
    """Connect to the first of the host's addresses that accepts, within `timeout` seconds for all of them.

    Port 0 stands for a Unix socket, whose path is the host. `watch` gets each socket before it connects. `source` is
    the address of this machine to connect from. An ASCII host name goes to the resolver as bytes: for text Python
    loads its tables for internationalised names, which take 0.7 MB.
    """
    host, port = address
    resolvable: Any = host.encode() if host.isascii() else host
    deadline = time.monotonic() + timeout
    found: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", host)] if port == 0 else []
    found = found or socket.getaddrinfo(resolvable, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for host {host!r}")
    for number, (family, kind, protocol, _, place) in enumerate(found):
        opening = socket.socket(family, kind, protocol)
        try:
            if watch is not None:
                watch(opening)
            if source is not None and family != socket.AF_UNIX:
                _bind(opening, source)
            opening.settimeout(max(0.001, (deadline - time.monotonic()) / (len(found) - number)))
            opening.connect(place)
        except OSError as error:
            opening.close()
            failure = error
        else:
            return opening
    raise failure


def _bind(opening: socket.socket, source: str) -> None:
    """Give a socket its own address; raise OSError, which names the address, if this machine does not have it."""
    try:
        opening.bind((source, 0))
    except OSError as error:
        raise OSError(f"cannot connect from {source}: {str(error.strerror).lower()}") from error


def probe(address: tuple[str, int], timeout: float, *, source: str | None = None) -> None:
    """Connect and close again; raise OSError, or ValueError for an impossible host name, if that fails."""
    open_stream(address, timeout, source=source).close()


def shut_down(descriptor: int) -> None:
    """End the connection of a socket without closing it: its owner then reads the end.

    Shutting down a TLS or WebSocket wrapper would change the wrapper, so a duplicate of the descriptor is shut down.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def wait(descriptor: int, wants: int, waker: socket.socket | None, timeout: float) -> int:
    """Wait up to `timeout` seconds; return the events of the descriptor and drain the wake-up bytes of `waker`.

    `wants` and the result are those of poll, which unlike select takes descriptors above 1,023.
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
