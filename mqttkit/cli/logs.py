"""Log records on stderr."""

from __future__ import annotations

import logging
import sys
import time

from mqttkit.formats.visible import visible_lines


def set_up_logging(*, quiet: bool = False, debug: bool = False, level: int = logging.INFO) -> None:
    """Send log records to stderr: errors only with `quiet`, everything with `debug`."""
    root = logging.getLogger("mqttkit")
    root.setLevel(logging.DEBUG if debug else logging.CRITICAL if quiet else level)
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter())
    root.handlers[:] = [handler]


class _LogFormatter(logging.Formatter):
    """`2026-01-11T10:30:45.123Z INFO client: connected`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(short)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.short = record.name.removeprefix("mqttkit.")
        text = super().format(record)
        return visible_lines(text) if sys.stderr.isatty() else text
