"""Which metrics belong to one of several outputs, by tenant and name. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from mqttkit.bridge.metric import TOPIC_CACHE_ENTRIES, Metric, MetricParser, MetricRefusal, Refusal


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
    """The share of one output, and the shares of all.

    A topic that has no tenant and no name, or belongs to no output, is the first output's: there it becomes a dead
    letter, so that it is stored once.
    """

    def __init__(
        self,
        name: str,
        shares: Sequence[Share],
        position: int,
        parser: MetricParser,
        *,
        late: str = "",
        mapped: bool = False,
    ) -> None:
        """`late` begins the topics whose messages have metrics of several names: `select` decides about each.

        If `mapped` is True, all messages have them, and only the tenant is known by the topic.
        """
        self.name = name
        self._mapped = mapped
        self._late = late
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

    def select(self, topic: str, metrics: list[Metric]) -> list[Metric]:
        """Return the metrics for this output; raise Refusal, with the others, for those that no output stores."""
        if not self._mapped and not self._is_late(topic):
            return metrics
        takers = [self._takers(metric.tenant_id, metric.metric_name) for metric in metrics]
        found = [metric for metric, those in zip(metrics, takers, strict=True) if self._position in those]
        lost = next((metric for metric, those in zip(metrics, takers, strict=True) if not those), None)
        if lost is not None and self._position == 0:
            raise Refusal(MetricRefusal.UNROUTED, f"no output stores {lost.metric_name}", found)
        return found

    def _takers(self, tenant: str, metric: str) -> list[int]:
        return [position for position, share in enumerate(self._shares) if share.includes(tenant, metric)]

    def _is_late(self, topic: str) -> bool:
        return bool(self._late) and topic.startswith(self._late)

    def _decide_topic(self, topic: str) -> tuple[bool, bool]:
        if self._is_late(topic):
            return True, False
        names = self._parser.names(topic)
        if names is None:
            return self._position == 0, False
        tenant, _, metric = names
        if self._mapped:
            tenants = self._shares[self._position].tenants
            return self._position == 0 or not tenants or tenant in tenants, False
        takers = self._takers(tenant, metric)
        return self._position in (takers or [0]), not takers
