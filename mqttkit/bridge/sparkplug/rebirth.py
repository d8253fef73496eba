"""Nodes whose births the bridge lacks: report them, and ask them to publish the births again if the user wants it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from mqttkit.bridge.sparkplug.payload import rebirth_request
from mqttkit.bridge.sparkplug.topic import NAMESPACE, NodeName

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0
"""Seconds before the same node is reported and asked again."""
LINES_PER_SECOND = 5
MAX_NODES = 10_000
"""Nodes whose last report is remembered."""


class Rebirths:
    """Log nodes without births, at most five a second, and ask each for a rebirth at most once a minute."""

    def __init__(
        self, publish: Callable[[str, bytes], object] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`publish` sends a request on a topic; without it no node is asked."""
        self.requests = 0
        """Rebirth requests published."""
        self._publish = publish
        self._clock = clock
        self._reported: OrderedDict[NodeName, float] = OrderedDict()
        self._second = 0.0
        self._lines = 0

    def note(self, unknown: Mapping[NodeName, str]) -> None:
        """Handle nodes whose births are missing, with the reason."""
        now = self._clock()
        for name, because in unknown.items():
            if now - self._reported.get(name, -AGAIN_SECONDS) < AGAIN_SECONDS:
                continue
            self._reported[name] = now
            self._reported.move_to_end(name)
            if len(self._reported) > MAX_NODES:
                self._reported.popitem(last=False)
            self._log(name, because, now)
            self._request(name)

    def _log(self, name: NodeName, because: str, now: float) -> None:
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_SECOND:
            then = (
                "asking for its births again" if self._publish else "set bridge.sparkplug.rebirth to ask for its births"
            )
            logger.warning(
                "Sparkplug node %r: %s. Values without a name are dead letters until its next birth; %s",
                "/".join(name),
                because,
                then,
            )

    def _request(self, name: NodeName) -> None:
        if self._publish is not None:
            self._publish(f"{NAMESPACE}{name.group}/NCMD/{name.node}", rebirth_request())
            self.requests += 1
