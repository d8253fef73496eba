"""What the births of one edge node have said: names, aliases, types, and where its sequence stands. Pure.

Nothing here changes an object: each message of a node gives a new Node, so that a batch can be prepared and discarded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mqttkit.bridge.metric import MetricRefusal, Refusal
from mqttkit.bridge.sparkplug.topic import SparkplugTopic, plain_name
from mqttkit.bridge.sparkplug.values import decode_text

SEQUENCE = 256
"""Sequence numbers run from 0 to 255 and start again."""
ENTRY_BYTES = 200
"""Approximate bytes in memory of one metric of a birth, besides its name."""


class BirthMetric(NamedTuple):
    """One metric of a birth."""

    name: str
    """As the node calls it."""
    plain: str
    """As the bridge stores it."""
    datatype: int


def entry(name: str, datatype: int) -> BirthMetric:
    """Return the entry of a name and a type."""
    return BirthMetric(name, plain_name(name), datatype)


class Table(NamedTuple):
    """The metrics of one birth."""

    by_alias: Mapping[int, BirthMetric]
    by_name: Mapping[str, BirthMetric]

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        entries = max(len(self.by_alias), len(self.by_name))
        return ENTRY_BYTES * entries + 2 * sum(map(len, self.by_name))


class EdgeNode(NamedTuple):
    """What is known of one edge node. One without tables is like one that was never seen."""

    tables: Mapping[str, Table] = {}
    """By device; the node's own has an empty name."""
    expected: int = 0
    """Next sequence number."""
    bd_seq: int | None = None
    """Number of the connection, which links a death to its birth."""

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return ENTRY_BYTES * bool(self.tables) + sum(table.size for table in self.tables.values())


def table_of(metrics: Any) -> Table:
    """Return the table of a birth's metrics; raise Refusal."""
    by_alias: dict[int, BirthMetric] = {}
    by_name: dict[str, BirthMetric] = {}
    for metric in metrics:
        if not metric.name:
            raise Refusal(MetricRefusal.SPARKPLUG_PAYLOAD, "a metric of a birth has no name")
        name = decode_text(metric.name)
        found = by_name[name] = entry(name, metric.datatype)
        if metric.HasField("alias") and by_alias.setdefault(metric.alias, found).name != name:
            raise Refusal(MetricRefusal.SPARKPLUG_PAYLOAD, f"alias {metric.alias} has two names")
    return Table(by_alias, by_name)


def bd_seq_of(metrics: Any) -> int | None:
    """Return the number of the connection in a birth or death of a node."""
    for metric in metrics:
        if metric.name == b"bdSeq":
            field = metric.WhichOneof("value")
            if field in ("int_value", "long_value"):
                return int(getattr(metric, field)) % SEQUENCE
    return None


def born(node: EdgeNode, address: SparkplugTopic, payload: Any) -> EdgeNode:
    """Return the node after a birth; raise Refusal. A birth of the node ends those of its devices."""
    table = table_of(payload.metrics)
    following = (payload.seq + 1) % SEQUENCE
    if address.device:
        return node._replace(tables={**node.tables, address.device: table}, expected=following)
    return EdgeNode({"": table}, following, bd_seq_of(payload.metrics))


def lost(node: EdgeNode, device: str = "") -> EdgeNode:
    """Return the node without the table of a device, or without any if no device is given."""
    return node._replace(tables={name: table for name, table in node.tables.items() if device and name != device})


def advanced(node: EdgeNode, sequence: int) -> tuple[EdgeNode, str]:
    """Return the node after a sequence number, and what is wrong if messages are missing before it.

    Among the missing ones there may be a birth with other aliases: so the earlier ones are no longer valid.
    """
    following = (sequence + 1) % SEQUENCE
    if not node.tables or node.expected == sequence:
        return node._replace(expected=following), ""
    gap = f"messages are missing before sequence number {sequence}, expected {node.expected}"
    return EdgeNode(expected=following), gap
