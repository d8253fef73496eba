"""New values of the topics in one branch of the tree, since the last look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mqttkit.live.tree import TopicNode, TopicTree

MAX_TOPICS = 5_000
"""Topics of a branch that are looked at."""


class BranchMessage(NamedTuple):
    """A message on a topic of the branch."""

    topic: str
    payload: bytes
    when: float
    """On the monotonic clock."""


class Branch:
    """The topics below a prefix. Use it from one thread."""

    def __init__(self, tree: TopicTree, prefix: str) -> None:
        self._tree = tree
        self._levels = [level for level in prefix.split("/") if level]
        self._seen: dict[TopicNode, float] = {}

    def news(self) -> list[BranchMessage]:
        """Return the values that arrived since the last call and are still in the tree, in the order of arrival."""
        seen: dict[TopicNode, float] = {}
        found: list[BranchMessage] = []
        with self._tree.lock:
            for node in self._nodes():
                before = self._seen.get(node, 0.0)
                seen[node] = node.when
                if node.when > before:
                    path = node.path
                    found += [BranchMessage(path, payload, when) for when, payload in node.history if when > before]
        self._seen = seen
        return sorted(found, key=lambda value: value.when)

    def _nodes(self) -> Iterator[TopicNode]:
        """Yield the topics of the branch, at most MAX_TOPICS."""
        node: TopicNode | None = self._tree.root
        for level in self._levels:
            node = (node.children or {}).get(level) if node is not None else None
        waiting = [] if node is None else [node]
        count = 0
        while waiting and count < MAX_TOPICS:
            node = waiting.pop()
            waiting += (node.children or {}).values()
            if node.message is not None:
                count += 1
                yield node


def fixed_prefix(template: str) -> str:
    """Return the levels of a topic template before its first placeholder."""
    return template.partition("{")[0].rpartition("/")[0]
