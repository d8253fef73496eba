"""Wait until a broker is ready: it answers CONNECT with CONNACK. An open port is not enough."""

from __future__ import annotations

import time
from collections.abc import Callable

from mqttkit.broker.probe import Login, ask
from mqttkit.errors import BrokerUnreachable, LifecycleError

POLL_SECONDS = 0.02


def wait_ready(login: Login, *, seconds: float, died: Callable[[], str]) -> float:
    """Wait until the broker accepts the login, and return the seconds that took.

    `died` returns why the broker is gone, which ends the wait, or an empty string while it runs. Raises
    `LifecycleError`.
    """
    begin = time.monotonic()
    while True:
        try:
            answer = ask(login)
        except BrokerUnreachable as error:
            last = error.cause
        else:
            if answer.accepted:
                return time.monotonic() - begin
            raise LifecycleError(f"the new broker on {login.address} refuses its own user: {answer.reason}")
        reason = died()
        if reason:
            raise LifecycleError(f"the broker ended while starting: {reason}")
        if time.monotonic() - begin > seconds:
            raise LifecycleError(f"the broker on {login.address} did not answer CONNECT in {seconds:g} s: {last}")
        time.sleep(POLL_SECONDS)
