"""The topics of a broker as a tree, with rates, sizes, ages and recent values, in bounded memory.

The network thread calls `add`; the thread that shows the tree calls `tick` and reads the nodes. Times are seconds of
the monotonic clock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mqttkit.messages import Message, Properties

NODE_BYTES = 650
"""Memory of a topic without its name and its values, measured with tracemalloc."""
VALUE_BYTES = 56
"""Memory of a value without its bytes."""
MAX_LEVELS = 40
"""Deeper levels of a topic name share one node."""
RATE_SECONDS = 3.0
"""Time constant of a topic's rate."""
WATCHED_VALUES = 200
"""Values kept of the topic that the user looks at."""
FEW_VALUES = 2
"""Values kept of each topic once memory is short: enough for the difference."""
NO_VALUES: list[float | bytes] = []
"""The values of every node without a message; nobody may change it. A list for each would take 56 bytes."""
SHED_TO = 0.8
"""Share of the limit that is used after old values and topics were dropped."""


class TopicNode:
    """A level of the tree: a topic, a branch, or both."""

    __slots__ = (
        *("name", "parent", "children", "depth", "opened"),
        *(
            "message",
            "when",
            "count",
            "values",
            "keep",
            "extra",
            "retained",
            "rate",
            "new",
            "began_retained",
            "_counted",
        ),
        *("total_rate", "total_count", "total_bytes", "topics", "newest"),
    )

    def __init__(self, name: str, parent: TopicNode | None) -> None:
        self.name = name
        """The level; for the deepest node the rest of the topic name."""
        self.parent = parent
        self.children: dict[str, TopicNode] | None = None
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.opened: bool | None = None
        """True or False once the user has opened or closed the branch."""
        self.message: Message | None = None
        """The latest message; None for a branch without a message."""
        self.when = 0.0
        """When it arrived."""
        self.count = 0
        """Messages received on the topic itself."""
        self.values: list[float | bytes] = NO_VALUES
        """Recent payloads, oldest first: time, payload, time, payload, …"""
        self.keep = FEW_VALUES
        """Number of values to keep."""
        self.extra = 0
        """Bytes of the latest message's properties."""
        self.retained = False
        """True if the broker has a retained message for the topic, as far as the messages received tell."""
        self.rate = 0.0
        """Messages per second."""
        self.new = False
        """True from the topic's first message to the next tick."""
        self.began_retained = False
        """True if the first message was a retained one."""
        self._counted = 0
        self.total_rate = 0.0
        """Messages per second of the topic and everything below it; so are the other totals."""
        self.total_count = 0
        self.total_bytes = 0
        """Bytes of the latest payloads."""
        self.topics = 0
        self.newest = 0.0
        """When the latest message arrived."""

    # --- what the tree does with its nodes ----------------------------------------------------------------

    def adopt(self, child: TopicNode) -> TopicNode:
        """Add a child and return it."""
        if self.children is None:
            self.children = {}
        self.children[child.name] = child
        return child

    def replace_extra(self, properties: Properties | None) -> int:
        """Record the memory of the latest message's properties; return how much it grew."""
        before, self.extra = self.extra, 0 if properties is None else _size(properties)
        return self.extra - before

    def update_rate(self, seconds: float, share: float) -> None:
        """Average the messages since the last call into the rate. A first retained message is not traffic."""
        arrived = self.count - self._counted
        self._counted = self.count
        if self.new:
            self.new = False
            self.rate = (arrived - self.began_retained) / max(seconds, RATE_SECONDS)
        else:
            self.rate += share * (arrived / seconds - self.rate)

    def forget(self) -> None:
        """Become a branch without a message."""
        self.message, self.values, self.count, self.rate = None, NO_VALUES, 0, 0.0
        self.retained, self.extra, self._counted = False, 0, 0

    def copy_to(self, other: TopicNode) -> None:
        """Copy everything but the place in the tree."""
        for name in self.__slots__:
            if name not in ("name", "parent", "children", "depth"):
                setattr(other, name, getattr(self, name))
        other.values = list(self.values)

    # --- what a view reads --------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The complete topic name."""
        parts: list[str] = []
        node: TopicNode | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))

    @property
    def counted_live(self) -> int:
        """Messages received, except a first one that the broker had retained."""
        return self.count - self.began_retained

    @property
    def history(self) -> list[tuple[float, bytes]]:
        """The recent values as (time, payload), oldest first."""
        flat = list(self.values)
        return list(zip(flat[::2], flat[1::2], strict=True))  # type: ignore[arg-type]  # the list alternates


def _size(properties: Properties) -> int:
    """Return the memory of a message's properties, estimated."""
    texts = (properties.content_type or "", properties.response_topic or "", properties.correlation_data or b"")
    pairs = sum([len(name) + len(value) + 160 for name, value in properties.user_properties])
    return 300 + pairs + sum(map(len, texts))


def _sum_up(order: Sequence[TopicNode]) -> None:
    """Compute the totals of all nodes, given parents before their children. Without calls: it runs every second."""
    for node in order:
        message = node.message
        node.total_rate, node.total_count, node.newest = node.rate, node.count, node.when
        if message is None:
            node.total_bytes = node.topics = 0
        else:
            node.total_bytes, node.topics = len(message[1]), 1
    for node in reversed(order):
        parent = node.parent
        if parent is not None:
            parent.total_rate += node.total_rate
            parent.total_count += node.total_count
            parent.total_bytes += node.total_bytes
            parent.topics += node.topics
            parent.newest = max(parent.newest, node.newest)


@dataclass
class Dropped:
    """What was given up to stay within the memory limit."""

    values: int = 0
    """Old values of topics that are still shown."""
    topics: int = 0
    """Topics that had been silent for longest."""
    cut: int = 0
    """Payloads of which only the first part was kept."""


class TopicTree:
    """Topics by level. `add`, `tick`, `watch`, `clear` and `copy` may run in different threads."""

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024, values: int = 6) -> None:
        """Keep `values` payloads of each topic while all of it fits into `max_bytes`."""
        self.max_bytes = max_bytes
        self.values = values
        self.used = 0
        """Bytes in use, estimated."""
        self.received = 0
        """Messages received."""
        self.version = 0
        """Grows with each topic that is added or dropped."""
        self.dropped = Dropped()
        self.root = TopicNode("", None)
        self.lock = threading.RLock()
        self._nodes: dict[str, TopicNode] = {}
        self._order: list[TopicNode] | None = None
        self._ticked: float | None = None
        self._watched: TopicNode | None = None
        self._largest = max(256, max_bytes // 64)

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, topic: str) -> TopicNode | None:
        """Return the node of a topic that has a message."""
        return self._nodes.get(topic)

    def add(self, messages: Sequence[Message], when: float) -> None:
        """Take messages that arrived at `when`."""
        with self.lock:
            nodes, used, largest = self._nodes, 0, self._largest
            for message in messages:
                topic, payload, _, retain, _, _, properties, _ = message
                node = nodes.get(topic) or self._insert(message)
                size = len(payload)
                if size > largest:
                    message = self._cut(message)  # noqa: PLW2901
                    payload, size = message.payload, largest
                if properties is not None or node.extra:
                    used += node.replace_extra(properties)
                values = node.values
                node.count += 1
                node.message = message
                node.when = when
                values += (when, payload)
                used += size
                if len(values) > 2 * node.keep:
                    used -= len(values[1])  # type: ignore[arg-type]  # times and payloads alternate
                    del values[:2]
                else:
                    used += VALUE_BYTES
                if retain:
                    node.retained = size > 0
            self.used += used
            self.received += len(messages)
            if self.used > self.max_bytes:
                self._shed()

    def tick(self, now: float) -> None:
        """Compute rates and totals; call it about once a second."""
        with self.lock:
            seconds = 0.0 if self._ticked is None else now - self._ticked
            first, share = self._ticked is None, 1 - math.exp(-seconds / RATE_SECONDS)
            self._ticked = now
            order = self._nodes_in_order()
            if not first and seconds > 0:
                for node in order:
                    if node.rate or node.count != node._counted:
                        node.update_rate(seconds, share)
            _sum_up(order)

    def watch(self, node: TopicNode | None) -> None:
        """Keep more values of this topic than of the others."""
        with self.lock:
            if self._watched is not None and self._watched is not node:
                self._shorten(self._watched, self.values)
            self._watched = node
            if node is not None and self.values > FEW_VALUES:
                node.keep = WATCHED_VALUES

    def clear(self) -> None:
        """Forget every topic and start again."""
        with self.lock:
            self.root = TopicNode("", None)
            self._nodes.clear()
            self._order = self._watched = self._ticked = None
            self.used = self.received = 0
            self.version += 1
            self.dropped = Dropped()

    def copy(self) -> TopicTree:
        """Return the tree as it is now; payloads are shared."""
        with self.lock:
            twin = TopicTree(max_bytes=self.max_bytes, values=self.values)
            twin.used, twin.received, twin.dropped = self.used, self.received, replace(self.dropped)
            twins: dict[TopicNode | None, TopicNode] = {self.root: twin.root}
            for node in self._nodes_in_order():
                copied = twins[node] if node is self.root else TopicNode(node.name, twins[node.parent])
                node.copy_to(copied)
                twins[node] = copied
                if copied.parent is not None:
                    copied.parent.adopt(copied)
            twin._nodes = {topic: twins[node] for topic, node in self._nodes.items()}
            return twin

    def topics(self) -> Iterator[tuple[str, TopicNode]]:
        """Yield each topic that has a message."""
        with self.lock:
            yield from list(self._nodes.items())

    # --- inside -------------------------------------------------------------------------------------------

    def _insert(self, message: Message) -> TopicNode:
        """Add the node of a new topic."""
        topic = message.topic
        node = self.root
        for name in topic.split("/", MAX_LEVELS - 1):
            child = node.children.get(name) if node.children else None
            if child is None:
                child = node.adopt(TopicNode(name, node))
                child.keep = self.values
                self.used += NODE_BYTES + 2 * len(name)
            node = child
        node.new, node.began_retained, node.values = True, message.retain, []
        self.used += 2 * len(topic)
        self._nodes[topic] = node
        self._order = None
        self.version += 1
        return node

    def _nodes_in_order(self) -> list[TopicNode]:
        """Return every node, parents before their children."""
        if self._order is None:
            order = [self.root]
            for node in order:  # grows while it runs
                if node.children:
                    order.extend(node.children.values())
            self._order = order
        return self._order

    def _cut(self, message: Message) -> Message:
        self.dropped.cut += 1
        return message._replace(payload=message.payload[: self._largest])

    def _shorten(self, node: TopicNode, keep: int) -> int:
        """Keep at most `keep` values of a node; return how many were dropped."""
        node.keep = keep
        surplus = node.values[: max(0, len(node.values) - 2 * keep)]
        if not surplus:
            return 0
        del node.values[: len(surplus)]
        payloads: list[bytes] = surplus[1::2]  # type: ignore[assignment]  # times and payloads alternate
        self.used -= sum(map(len, payloads)) + VALUE_BYTES * len(payloads)
        return len(payloads)

    def _shed(self) -> None:
        """Get below the limit: drop old values first, then the topics that have been silent for longest."""
        if self.values > FEW_VALUES:
            self.values = FEW_VALUES
            self.dropped.values += sum([self._shorten(node, FEW_VALUES) for node in self._nodes.values()])
        if self.used <= SHED_TO * self.max_bytes:
            return
        for topic, _ in sorted(self._nodes.items(), key=lambda item: item[1].when):
            self._remove(topic)
            self.dropped.topics += 1
            if self.used <= SHED_TO * self.max_bytes:
                break

    def _remove(self, topic: str) -> None:
        node: TopicNode = self._nodes.pop(topic)
        self._shorten(node, 0)
        self.used -= 2 * len(topic) + node.extra
        node.forget()
        if self._watched is node:
            self._watched = None
        while node.parent is not None and not node.children and node.message is None:
            parent = node.parent
            assert parent.children is not None
            del parent.children[node.name]
            self.used -= NODE_BYTES + 2 * len(node.name)
            node = parent
        self._order = None
        self.version += 1
