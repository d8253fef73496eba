"""Collects readings with a gateway until there are enough, the time is up, or it is stopped."""

from __future__ import annotations

import logging
import time

from mqttkit.nodes.gateway import GatewayNode
from mqttkit.stop import Stop

log = logging.getLogger(__name__)

STEP_SECONDS = 0.1
"""How soon `stop` is noticed."""


def collect(gateway: GatewayNode, *, count: int | None, duration: float | None, interval: float, stop: Stop) -> bool:
    """Wait for `count` readings, `duration` seconds or `stop`, whichever is first; log totals every `interval` seconds.

    Return False if the time was up before `count` readings arrived. Logs how many messages were not readings.
    """
    try:
        return _wait(gateway, count, duration, interval, stop)
    finally:
        if gateway.invalid:
            log.warning("%d messages are not readings", gateway.invalid)


def _wait(gateway: GatewayNode, count: int | None, duration: float | None, interval: float, stop: Stop) -> bool:
    now = time.monotonic()
    end = None if duration is None else now + duration
    report = now + interval
    while not stop.is_set:
        now = time.monotonic()
        if end is not None and now >= end:
            return count is None or gateway.wait_for(count, 0.0)
        if now >= report:
            report = now + interval
            log.info("%d readings of %d sensors", gateway.readings, len(gateway.aggregates))
        step = min(moment - now for moment in (end, report, now + STEP_SECONDS) if moment is not None)
        if count is None:
            stop.wait(step)
        elif gateway.wait_for(count, step):
            return True
    return True
