"""What the service manager is told (sd_notify): ready, status, alive, stopping. Pure datagrams."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Send states to the socket that systemd named; nothing where it named none.

    The watchdog is fed by `beat` only where its argument has changed: a loop that stands still starves it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._last: object = None
        self._ready = False

    def ready(self, status: str) -> None:
        """Say once that the service is up."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Say in one line how it goes."""
        self._send(f"STATUS={text}")

    def beat(self, progress: object) -> None:
        """Feed the watchdog if there was progress since the last beat."""
        if progress != self._last:
            self._last = progress
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service winds up."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), self._address)  # a manager that is gone must not stop the bridge
