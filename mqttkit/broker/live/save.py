"""Make a running mosquitto save its database (SIGUSR1), and see that it did."""

from __future__ import annotations

import time

from mqttkit.broker.file_names import DATABASE_FILE
from mqttkit.broker.protocol import Broker
from mqttkit.errors import LifecycleError

SAVE_SECONDS = 30.0
SIGNAL_SECONDS = 1.0
POLL_SECONDS = 0.02


def save_database(broker: Broker, *, seconds: float = SAVE_SECONDS) -> None:
    """Make the broker save its database now and return once the new file exists; raise LifecycleError.

    The signal is sent again each second: mosquitto forgets one that arrives while it finishes another save.
    """
    before = broker.file_stamp(DATABASE_FILE)
    begin, signals = time.monotonic(), 0
    while broker.file_stamp(DATABASE_FILE) in (before, None):
        waited = time.monotonic() - begin
        if waited > seconds:
            raise LifecycleError(
                f"the broker cannot save {DATABASE_FILE}: no new file in {seconds:g} s, {_last_error(broker)}",
                hint=f"See: mqttkit broker logs --name {broker.spec.name}",
            )
        if waited >= signals * SIGNAL_SECONDS:
            broker.signal("USR1")
            signals += 1
        time.sleep(POLL_SECONDS)


def _last_error(broker: Broker) -> str:
    errors = [line for line in broker.log_lines(tail=50) if "Error" in line]
    return errors[-1] if errors else "no error in its log"
