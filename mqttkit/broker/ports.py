"""TCP ports of this machine: which ones are free, and which process holds one (proc(5))."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from mqttkit.errors import LifecycleError, PermissionMissing, PortTaken, UsageError

LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
PROC = Path("/proc")


def free_port(host: str = "127.0.0.1", *, avoid: Collection[int | None] = ()) -> int:
    """Return a TCP port that is free on the address at this moment."""
    with contextlib.ExitStack() as stack:
        while True:  # a port to avoid stays bound, so that the kernel returns another one
            port = int(stack.enter_context(_bound(host, 0)).getsockname()[1])
            if port not in avoid:
                return port


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on the port now."""
    try:
        _bound(host, port).close()
    except OSError:
        return False
    return True


def require_free(host: str, port: int, *, option: str = "--port") -> None:
    """Raise `PortTaken` if the port is taken, naming the process that holds it if we can see it."""
    try:
        _bound(host, port).close()
    except OSError as error:
        if error.errno == errno.EACCES:
            raise PermissionMissing(
                f"port {port} needs root", hint=f"Choose one above 1023: {option} {port % 1000 + 10_000}"
            ) from error
        if error.errno != errno.EADDRINUSE:
            raise LifecycleError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise PortTaken(
            f"port {port} on {host} is taken by {port_owner(port) or 'a process that this user cannot see'}",
            hint=f"Stop it, or choose another port: {option} {nearby_free_port(host, port)}",
        ) from error


def numeric(host: str) -> str:
    """Return the numeric address of a host name; raise `UsageError` if it has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror as error:
        raise UsageError(f"cannot listen on {host!r}: {error.strerror}") from error


def reachable_host(listen: str) -> str:
    """Return the address at which this machine reaches a listener bound to `listen`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(listen, listen)  # noqa: S104 - names it


def nearby_free_port(host: str, port: int) -> int:
    """Return a free port near `port` that is easy to remember."""
    candidates = range(port + 10_000, min(port + 10_020, 65_536))
    return next((candidate for candidate in candidates if is_free(host, candidate)), None) or free_port(host)


def port_owner(port: int) -> str | None:
    """Return `name (pid 123)` of the process that listens on the port; None if this user cannot see it."""
    inodes = listening_inodes(port)
    for directory in PROC.iterdir():
        if directory.name.isdigit() and inodes and inodes & _sockets_of(directory):
            with contextlib.suppress(OSError):
                return f"{(directory / 'comm').read_text().strip()} (pid {directory.name})"
    return None


def listening_inodes(port: int) -> set[str]:
    """Return the socket inodes that listen on the port, on any address, IPv4 or IPv6."""
    return {fields[9] for fields in _listeners(port)}


def bound_addresses(port: int) -> set[str]:
    """Return the addresses on which something listens on the port."""
    return {_address(fields[1].partition(":")[0]) for fields in _listeners(port)}


def _listeners(port: int) -> Iterator[list[str]]:
    """Yield the fields of /proc/net/tcp and tcp6 of each socket that listens on the port."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields


def _address(text: str) -> str:
    """Return an address from the kernel's hexadecimal form: 32-bit words in the machine's byte order."""
    words = [int(text[index : index + 8], 16).to_bytes(4, sys.byteorder) for index in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _sockets_of(process: Path) -> set[str]:
    """Return the inodes of a process's sockets; none if this user may not read them."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound as a server binds it; raise OSError."""
    address = numeric(host)
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
    except OSError:
        probe.close()
        raise
    return probe
