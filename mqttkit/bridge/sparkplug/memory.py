"""The nodes of a bridge, which change batch by batch: a batch is drafted, then accepted, then saved."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mqttkit.bridge.sparkplug.aliases import EdgeNode
from mqttkit.bridge.sparkplug.topic import NodeName
from mqttkit.messages import Message

SEEN = 8_192
"""Messages remembered, to recognise one that the broker delivers again. At most 2,000 are in flight."""


def message_identity(message: Message) -> bytes:
    """Return an identity of topic and payload."""
    return hashlib.blake2b(message.topic_bytes + b"\0" + message.payload, digest_size=12).digest()


@dataclass
class Draft:
    """What one batch changes."""

    nodes: dict[NodeName, EdgeNode] = field(default_factory=dict)
    seen: dict[bytes, None] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    unknown: dict[NodeName, str] = field(default_factory=dict)
    """Nodes whose births are missing, with the reason."""


class NodeMemory:
    """Nodes, up to a limit in bytes. The node that was silent longest is forgotten first.

    The worker may draft the next batch while it commits the current one, so `draft` changes only the draft.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes."""
        self.counts: Counter[str] = Counter()
        self.draft = Draft()
        self._limit = limit
        self._nodes: OrderedDict[NodeName, EdgeNode] = OrderedDict()
        self._size = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def restore(self, nodes: Iterable[tuple[NodeName, EdgeNode]], seen: Iterable[bytes]) -> None:
        """Add what was saved, the longest silent node first."""
        for name, node in nodes:
            self._set(name, node)
        self._seen.update(dict.fromkeys(seen))
        self._trim()

    def begin(self) -> None:
        """Discard the draft and start another one."""
        self.draft = Draft()

    def accept(self) -> tuple[Draft, list[NodeName]]:
        """Make the draft valid; return it, and the nodes that had to be forgotten."""
        draft, self.draft = self.draft, Draft()
        for name, node in draft.nodes.items():
            self._set(name, node)
        self._seen.update(draft.seen)
        self.counts.update(draft.counts)
        dropped = self._trim()
        self.counts["dropped_nodes"] += len(dropped)
        return draft, dropped

    def get(self, name: NodeName) -> EdgeNode:
        """Return a node as the draft sees it."""
        return self.draft.nodes.get(name) or self._nodes.get(name) or EdgeNode()

    def knows(self, identity: bytes) -> bool:
        """Return whether a message was processed before."""
        return identity in self._seen or identity in self.draft.seen

    @property
    def nodes(self) -> Mapping[NodeName, EdgeNode]:
        """All nodes, the longest silent one first."""
        return self._nodes

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return self._size

    def _set(self, name: NodeName, node: EdgeNode) -> None:
        before = self._nodes.pop(name, EdgeNode())
        if before.tables is not node.tables:
            self._size += node.size - before.size
        if node.tables:
            self._nodes[name] = node

    def _trim(self) -> list[NodeName]:
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        dropped = []
        while self._size > self._limit and self._nodes:
            name, node = self._nodes.popitem(last=False)
            self._size -= node.size
            dropped.append(name)
        return dropped
