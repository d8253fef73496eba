"""What the page shows besides topics, once a second: connection, broker, Bluetooth, bridges, controllers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from mqttkit.bridge.metric import reserved_prefix
from mqttkit.broker.statistics import TOPICS
from mqttkit.formats.visible import visible
from mqttkit.live.feed import Feed
from mqttkit.live.local_broker import local_profile
from mqttkit.settings import Settings
from mqttkit.web.ble_map import BleMap
from mqttkit.web.branches import Branch, fixed_prefix
from mqttkit.web.bridge_status import BridgeMembers, BridgePages
from mqttkit.web.controller_status import Controllers

RATES = {"received_per_minute": "received_per_second", "sent_per_minute": "sent_per_second"}
"""Names in `Statistics` of the figures whose topics carry another unit."""


class Overview:
    """Collects what the page shows once a second. Use it from one thread."""

    def __init__(self, settings: Settings, feed: Feed, pages: BridgePages) -> None:
        self._feed = feed
        self._pages = pages
        self._profile = local_profile(feed.settings)
        self._ble = BleMap()
        self._controllers = Controllers(settings.controller)
        self._members = BridgeMembers(reserved_prefix(settings.bridge.topic))
        self._ble_topics = Branch(feed.tree, fixed_prefix(settings.publisher.topic))
        self._controller_topics = Branch(feed.tree, self._controllers.prefix)
        self._member_topics = Branch(feed.tree, self._members.prefix)

    def read(self) -> dict[str, object]:
        """Return what has changed since the last call, and what has not."""
        now = time.monotonic()
        self._ble.add(self._ble_topics.news())
        self._controllers.add(self._controller_topics.news())
        self._members.add(self._member_topics.news())
        return {
            "now": round(time.time() * 1000),
            "connection": self._connection(now),
            "broker": self._broker(),
            "tree": self._tree(),
            "ble": self._ble.state(now),
            "bridges": [*self._pages.rows(), *self._members.rows(now)],
            "controllers": self._controllers.state(now),
        }

    def _connection(self, now: float) -> dict[str, object]:
        feed = self._feed
        return {
            "address": feed.address,
            "profile": self._profile,
            "state": feed.state.value,
            "reason": visible(feed.reason),
            "seconds": round(now - feed.since, 1),
            "filters": [visible(each) for each in feed.topic_filters],
        }

    def _broker(self) -> dict[str, object]:
        """Return the broker's own figures, as far as it has sent them."""
        found = self._feed.statistics
        if found is None:
            return {}
        values = dataclasses.asdict(found)
        known = [name for name in TOPICS if self._feed.knows(name)]
        figures = {RATES.get(name, name): values[RATES.get(name, name)] for name in known}
        return {name: visible(value) if isinstance(value, str) else value for name, value in figures.items()}

    def _tree(self) -> dict[str, object]:
        tree = self._feed.tree
        return {
            "topics": len(tree),
            "received": tree.received,
            "rate": round(tree.root.total_rate, 1),
            "used": tree.used,
            "limit": tree.max_bytes,
            "dropped": dataclasses.asdict(tree.dropped),
        }


def bridge_addresses(settings: Settings, given: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the addresses of health pages: those given, and that of the bridge in the settings file."""
    own = [(settings.bridge.health_host, settings.bridge.health_port)] if settings.bridge.health_port else []
    return list(dict.fromkeys([*given, *own]))
