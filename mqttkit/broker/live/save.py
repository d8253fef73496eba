"""Make a running mosquitto save its database (SIGUSR1), and prove that the file is complete.

If the disk is full, mosquitto 2.0 replaces a small database with an empty file, without an error. So a new file alone
proves nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time

from mqttkit.broker.file_names import DATABASE_FILE
from mqttkit.broker.mosquitto.configuration import tuning
from mqttkit.broker.mosquitto.database import count_retained
from mqttkit.broker.profile import read_profile
from mqttkit.broker.protocol import LACKS, Broker, Feature
from mqttkit.broker.statistics import StatisticsWatcher
from mqttkit.errors import LifecycleError, MqttkitError, UsageError

log = logging.getLogger(__name__)

SAVE_SECONDS = 30.0
SIGNAL_SECONDS = 1.0
POLL_SECONDS = 0.02
COUNT_ATTEMPTS = 3
COUNT_SECONDS = 2.5
"""mosquitto publishes the number of its retained messages every 2 s."""


def save_database(broker: Broker, *, seconds: float = SAVE_SECONDS) -> int:
    """Make the broker save its database now, and return the number of retained messages in the new file.

    Raises LifecycleError if no new file appears, or if it is empty or truncated.
    """
    _wait_for_file(broker, seconds)
    try:
        return count_retained(broker.read_file(DATABASE_FILE) or b"")
    except UsageError as error:
        raise LifecycleError(
            f"the broker saved {DATABASE_FILE}, but the file is not complete: {error.message}; {_last_error(broker)}",
            hint="Is the disk full? Free some space and try again",
        ) from error


def save_everything(broker: Broker) -> None:
    """Make the broker save, and compare the file with what the broker has; raise LifecycleError if it lacks anything.

    A broker without persistence has nothing to save.
    """
    persistent = tuning(broker.spec.tuning, broker.spec.overrides).persistence
    if Feature.PERSISTENCE in LACKS[broker.backend] or not persistent:
        return
    broker.resume()
    for attempts_left in reversed(range(COUNT_ATTEMPTS)):
        before = _retained(broker)
        saved = save_database(broker)
        wanted = min(before, _retained(broker))
        if saved >= wanted:
            return
        if attempts_left:
            time.sleep(COUNT_SECONDS)
    raise LifecycleError(f"the broker has {wanted} retained messages, but it saved only {saved}")


def _wait_for_file(broker: Broker, seconds: float) -> None:
    """Signal the broker and wait for a new file; the signal is sent again each second.

    mosquitto forgets one that arrives while it finishes another save.
    """
    before, errors = broker.file_stamp(DATABASE_FILE), len(_save_errors(broker))
    begin, signals = time.monotonic(), 0
    while broker.file_stamp(DATABASE_FILE) in (before, None):
        waited = time.monotonic() - begin
        if waited >= signals * SIGNAL_SECONDS:
            if waited > seconds or len(_save_errors(broker)) > errors:
                raise LifecycleError(
                    f"the broker cannot save {DATABASE_FILE}: no new file in {waited:.0f} s; {_last_error(broker)}",
                    hint=f"See: mqttkit broker logs --name {broker.spec.name}",
                )
            broker.signal("USR1")
            signals += 1
        time.sleep(POLL_SECONDS)


def _retained(broker: Broker) -> int:
    """Return how many retained messages the broker has, `$SYS` excluded; 0 if it does not say."""
    profile = read_profile(broker.paths)
    with contextlib.suppress(MqttkitError):
        if profile is not None:
            with StatisticsWatcher(profile) as watcher:
                return watcher.retained()
    log.info("the broker does not say how many retained messages it has")
    return 0


def _save_errors(broker: Broker) -> list[str]:
    return [line for line in broker.log_lines(tail=200) if "Error" in line and "in-memory database" in line]


def _last_error(broker: Broker) -> str:
    errors = [line for line in broker.log_lines(tail=50) if "Error" in line]
    return errors[-1] if errors else "no error in its log"
