"""Bounds for dead letters: how many are logged, and how many one tenant may add in a day."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from mqttkit.bridge.metric import MetricRefusal
from mqttkit.bridge.sinks.types import DeadLetter
from mqttkit.bridge.sparkplug.topic import NAMESPACE as SPARKPLUG_NAMESPACE

logger = logging.getLogger(__name__)

LINES_PER_SECOND = 5
DAY_SECONDS = 86_400.0
MAX_TENANTS = 10_000
"""Tenants whose letters are counted; the one that was silent longest is forgotten."""
_NO_TENANT = {MetricRefusal.TENANT_UNKNOWN, MetricRefusal.TENANT_FORMAT, MetricRefusal.TOPIC_ENCODING}
_WITHOUT_TENANT = {reason.value for reason in (*_NO_TENANT, MetricRefusal.TOPIC_SHAPE)}


class LetterLog:
    """Log each dead letter at INFO, at most five a second. The payload is not logged."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0.0
        self._lines = 0
        self._silent = 0

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Log committed letters; count those above the limit and report them in the next second."""
        if not letters:
            return
        now = self._clock()
        if now - self._second >= 1:
            if self._silent:
                logger.info("%d more dead letters in the seconds before", self._silent)
            self._second, self._lines, self._silent = now, 0, 0
        shown = letters[: LINES_PER_SECOND - self._lines]
        for letter in shown:
            logger.info("dead letter: %s, %d bytes on %r", letter.reason, letter.size, letter.topic)
        self._lines += len(shown)
        self._silent += len(letters) - len(shown)


class LetterQuota:
    """How many dead letters each tenant adds in a day. All messages without a known tenant share one quota."""

    def __init__(
        self, quota: int, template: str, *, drop: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`template` is that of the topics; a quota of 0 means no limit. `drop` drops the letters above it."""
        self.dropped = 0
        """Letters that were not stored."""
        self._quota = quota
        self._drop = drop
        self._level = template.split("/").index("{tenant_id}")
        self._clock = clock
        self._used: OrderedDict[str, list[float]] = OrderedDict()

    def admit(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        """Return the letters to store; log once a day for each tenant whose quota is used up."""
        if not self._quota or not letters:
            return letters
        now = self._clock()
        return [letter for letter in letters if self._take(self._tenant(letter), now)]

    def _tenant(self, letter: DeadLetter) -> str:
        if letter.reason in _WITHOUT_TENANT:
            return ""
        levels = letter.topic.split("/")
        level = 1 if letter.topic.startswith(SPARKPLUG_NAMESPACE) else self._level
        return levels[level].lower() if level < len(levels) else ""

    def _take(self, tenant: str, now: float) -> bool:
        used = self._used.pop(tenant, None)
        if used is None or now - used[0] >= DAY_SECONDS:
            used = [now, 0]
        self._used[tenant] = used
        if len(self._used) > MAX_TENANTS:
            self._used.popitem(last=False)
        used[1] += 1
        if used[1] <= self._quota:
            return True
        if used[1] == self._quota + 1:
            who = f"tenant {tenant}" if tenant else "messages without a known tenant"
            what = "counted, not stored" if self._drop else "stored. Find the cause: mqttkit bridge dead-letters list"
            logger.warning("%s: more than %d dead letters today; further ones are %s", who, self._quota, what)
        self.dropped += self._drop
        return not self._drop
