"""Report what a broker has lost while it was down, and what it will lose by a limit that it did not have before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from mqttkit.broker.file_names import CONFIGURATION_FILE, DATABASE_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.configuration import Tuning
from mqttkit.broker.mosquitto.database import count_retained
from mqttkit.errors import UsageError

log = logging.getLogger(__name__)


def report_losses(
    read: Callable[[str], bytes | None], write: Callable[[str, bytes], None], *, settings: Tuning
) -> None:
    """Warn before an existing broker starts without its users or messages, or with an end of sessions that had none.

    mosquitto itself starts with an empty or missing file as if it had never had another. A damaged database is kept
    beside the new one.
    """
    if read(PASSWORD_FILE) is None:
        log.warning("%s is missing: its users are lost. Restore a backup, or add the users again", PASSWORD_FILE)
    conf = read(CONFIGURATION_FILE)
    if not settings.persistence or (conf is not None and b"\npersistence false\n" in conf):
        return  # it has nothing to keep, or had nothing when it ran last
    if conf is not None and b"\npersistent_client_expiration " not in conf:
        log.warning(
            "the session of a client that stays away now ends after %d days, with its queue; until now it never ended. "
            "Choose another limit with: mqttkit broker restart --persistent-client-expiration DAYS",
            settings.persistent_client_expiration,
        )
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
