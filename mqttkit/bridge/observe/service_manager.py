"""Report to the service manager (sd_notify): ready, status, alive, stopping."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Send states to the socket in NOTIFY_SOCKET; without it, do nothing.

    `beat` resets the watchdog only if its argument has changed, so systemd restarts a bridge that is stuck.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._last: object = None
        self._ready = False

    def ready(self, status: str) -> None:
        """Report once that the service is ready."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Report the state in one line."""
        self._send(f"STATUS={text}")

    def beat(self, progress: object) -> None:
        """Reset the watchdog if there was progress since the last call."""
        if progress != self._last:
            self._last = progress
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), self._address)  # a missing service manager must not stop the bridge
