"""Which nodes of a tree are shown, and in which order. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mqttkit.live.tree import TopicNode, TopicTree
from mqttkit.topics import matches

OPEN_TOPICS = 60
"""A tree with at most this many topics starts with every branch open."""


class Order(enum.Enum):
    """What the rows are sorted by: names ascending, everything else with the largest first."""

    NAME = "name"
    RATE = "rate"
    SIZE = "size"
    AGE = "age"


_KEYS: dict[Order, Callable[[TopicNode], object]] = {
    Order.NAME: lambda node: node.name,
    Order.RATE: lambda node: (-node.total_rate, node.name),
    Order.SIZE: lambda node: (-node.total_bytes, node.name),
    Order.AGE: lambda node: (-node.newest, node.name),
}
"""AGE puts the topic with the latest message first."""


@dataclass(frozen=True)
class View:
    """How the user looks at the tree."""

    order: Order = Order.NAME
    wanted: str = ""
    """Show only topics that match: a topic filter if it has a wildcard, a part of the name otherwise."""


def topic_test(wanted: str) -> Callable[[str], bool]:
    """Return a function that says whether a topic name matches `wanted`, as `View.wanted` does."""
    if "+" in wanted or "#" in wanted:
        return lambda topic: matches(wanted, topic)
    folded = wanted.casefold()
    return lambda topic: folded in topic.casefold()


def rows(tree: TopicTree, view: View, *, closed_too: bool = False) -> list[TopicNode]:
    """Return the nodes to show, from top to bottom, without those in closed branches unless `closed_too`."""
    with tree.lock:
        allowed = _matching(tree, view.wanted) if view.wanted else None
        all_open = opens_all(tree, view)
        found: list[TopicNode] = []
        waiting = _sorted(tree.root, view.order, allowed)
        while waiting:
            node = waiting.pop()
            found.append(node)
            if node.children and (closed_too or is_open(node, all_open=all_open)):
                waiting += _sorted(node, view.order, allowed)
        return found


def opens_all(tree: TopicTree, view: View) -> bool:
    """Return whether branches are open that the user has neither opened nor closed."""
    return len(tree) <= OPEN_TOPICS or bool(view.wanted)


def is_open(node: TopicNode, *, all_open: bool) -> bool:
    """Return whether the children of a branch are shown."""
    return all_open if node.opened is None else node.opened


def sorted_topics(tree: TopicTree, order: Order) -> list[tuple[str, TopicNode]]:
    """Return every topic that has a message, by its whole name."""
    by_name = sorted(tree.topics(), key=lambda item: item[0])
    if order is Order.NAME:
        return by_name
    key = {
        Order.RATE: lambda item: -item[1].rate,
        Order.SIZE: lambda item: -len(item[1].message.payload) if item[1].message else 0,
        Order.AGE: lambda item: -item[1].when,
    }[order]
    return sorted(by_name, key=key)


def _sorted(branch: TopicNode, order: Order, allowed: set[TopicNode] | None) -> list[TopicNode]:
    """Return the children to show, the first one last."""
    children: Iterable[TopicNode] = branch.children.values() if branch.children else ()
    if allowed is not None:
        children = [node for node in children if node in allowed]
    key: Callable[[TopicNode], object] = _KEYS[order]
    return sorted(children, key=key, reverse=True)  # type: ignore[arg-type]  # each key sorts with its own kind


def _matching(tree: TopicTree, wanted: str) -> set[TopicNode]:
    """Return the nodes of the topics that match, and the branches above them."""
    test = topic_test(wanted)
    found: set[TopicNode] = set()
    for topic, topic_node in tree.topics():
        if test(topic):
            node: TopicNode | None = topic_node
            while node is not None and node not in found:
                found.add(node)
                node = node.parent
    return found
