"""Report what a broker has lost while it was down: its users, or its messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from mqttkit.broker.file_names import CONFIGURATION_FILE, DATABASE_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.database import count_retained
from mqttkit.errors import UsageError

log = logging.getLogger(__name__)


def report_losses(
    read: Callable[[str], bytes | None], write: Callable[[str, bytes], None], *, persistence: bool
) -> None:
    """Warn before an existing broker starts without its users or messages; keep a damaged database beside the new one.

    mosquitto itself starts with an empty or missing file as if it had never had another.
    """
    if read(PASSWORD_FILE) is None:
        log.warning("%s is missing: its users are lost. Restore a backup, or add the users again", PASSWORD_FILE)
    conf = read(CONFIGURATION_FILE)
    if not persistence or (conf is not None and b"\npersistence false\n" in conf):
        return  # it has nothing to keep, or had nothing when it ran last
    content = read(DATABASE_FILE)
    if content is None:
        log.warning("%s is missing: retained messages and sessions are lost. Restore a backup", DATABASE_FILE)
        return
    try:
        count_retained(content)
    except UsageError as error:
        place = f"{DATABASE_FILE}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        kept = f"; a copy is in {place}" if content else ""
        if content:
            write(place, content)
        log.warning("%s is not usable: %s%s. Restore a backup", DATABASE_FILE, error.message, kept)
