"""Which metrics belong to one of several outputs, by tenant and name. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from mqttkit.bridge.metric import TOPIC_CACHE_ENTRIES, MetricParser


@dataclass(frozen=True)
class Share:
    """What one output stores. An empty sequence means everything."""

    tenants: frozenset[str] = frozenset()
    """In lower case."""
    metrics: tuple[str, ...] = ()
    """Patterns in which * matches any text."""

    def includes(self, tenant: str, metric: str) -> bool:
        """Return whether the output stores this metric."""
        named = not self.metrics or any(re.fullmatch(translate(pattern), metric) for pattern in self.metrics)
        return named and (not self.tenants or tenant in self.tenants)


class Route:
    """The share of one output, beside the shares of all.

    A topic that has no tenant and no name, or belongs to no output, is the first output's: there it becomes a dead
    letter, so that it is stored once.
    """

    def __init__(self, name: str, shares: Sequence[Share], position: int, parser: MetricParser) -> None:
        self.name = name
        self._shares = shares
        self._position = position
        self._parser = parser
        self._decide = lru_cache(TOPIC_CACHE_ENTRIES)(self._decide_topic)

    def takes(self, topic: str) -> bool:
        """Return whether messages on this topic are for this output."""
        return self._decide(topic)[0]

    def is_unrouted(self, topic: str) -> bool:
        """Return whether this is a metric that no output stores."""
        return self._decide(topic)[1]

    def _decide_topic(self, topic: str) -> tuple[bool, bool]:
        names = self._parser.names(topic)
        if names is None:
            return self._position == 0, False
        tenant, _, metric = names
        takers = [position for position, share in enumerate(self._shares) if share.includes(tenant, metric)]
        return self._position in (takers or [0]), not takers
