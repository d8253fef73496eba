"""Devices from a user's command, which prints one JSON object per line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from typing import Any

from mqttkit.controller.discovery.types import DiscoveryFailed

COMMAND_SECONDS = 300.0
MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes of output that are read; more is an error."""


class CommandSource:
    """Runs a shell command for each scan."""

    def __init__(self, command: str, *, timeout: float = COMMAND_SECONDS) -> None:
        self._command, self._timeout = command, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self) -> list[dict[str, Any]]:
        """Run the command and return its devices; raise DiscoveryFailed if it fails or prints something else."""
        with self._lock:
            if self._closed:
                raise DiscoveryFailed("the discovery has ended")
            process = self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        timer = threading.Timer(self._timeout, self._end, (process,))
        timer.start()
        try:
            with process:
                assert process.stdout is not None
                output = process.stdout.read(MAX_OUTPUT + 1)
                if len(output) > MAX_OUTPUT:
                    self._end(process)
        finally:
            timer.cancel()
        if len(output) > MAX_OUTPUT:
            raise DiscoveryFailed(f"{self._command!r} printed more than {MAX_OUTPUT} bytes")
        if process.returncode:
            how = f"ended with {process.returncode}" if process.returncode > 0 else "was ended"
            raise DiscoveryFailed(f"{self._command!r} {how}")
        return [self._device(line) for line in output.splitlines() if line.strip()]

    def close(self) -> None:
        """End the command, with everything that it has started."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def _device(self, line: bytes) -> dict[str, Any]:
        try:
            device = json.loads(line)
        except (ValueError, RecursionError) as error:
            shown = line[:80].decode(errors="replace")
            raise DiscoveryFailed(f"{self._command!r} printed a line that is not JSON: {shown}") from error
        if not isinstance(device, dict):
            raise DiscoveryFailed(f"{self._command!r} printed a line that is not a JSON object")
        return device
