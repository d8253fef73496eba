"""Which rows a view shows, and in which order."""

from __future__ import annotations

from mqttkit.live.rows import Order, View, rows, sorted_topics, topic_test
from mqttkit.live.tree import TopicTree
from mqttkit.messages import Message


def tree_of(*messages: tuple[str, int, float]) -> TopicTree:
    """Return a tree with a message of so many bytes on each topic, at its time."""
    tree = TopicTree()
    for topic, size, when in messages:
        tree.add([Message(topic, b"x" * size)], when)
    tree.tick(100.0)
    return tree


TREE = (("b/one", 5, 3.0), ("b/two", 50, 1.0), ("a", 10, 2.0))


def paths(tree: TopicTree, view: View) -> list[str]:
    return [node.path for node in rows(tree, view)]


def test_rows_are_sorted_within_their_branch() -> None:
    tree = tree_of(*TREE)
    assert paths(tree, View(Order.NAME)) == ["a", "b", "b/one", "b/two"]
    assert paths(tree, View(Order.SIZE)) == ["b", "b/two", "b/one", "a"]
    assert paths(tree, View(Order.AGE)) == ["b", "b/one", "b/two", "a"]


def test_closed_branches_hide_their_topics() -> None:
    tree = tree_of(*TREE)
    rows(tree, View())[1].opened = False
    assert paths(tree, View()) == ["a", "b"]
    assert [node.path for node in rows(tree, View(), closed_too=True)] == ["a", "b", "b/one", "b/two"]


def test_a_large_tree_starts_closed() -> None:
    tree = tree_of(*((f"room/{number}", 1, 1.0) for number in range(100)))
    assert paths(tree, View()) == ["room"]
    assert len(paths(tree, View(wanted="room/1"))) == 12


def test_a_filter_keeps_the_branches_of_what_matches() -> None:
    tree = tree_of(*TREE)
    assert paths(tree, View(wanted="TWO")) == ["b", "b/two"]
    assert paths(tree, View(wanted="b/#")) == ["b", "b/one", "b/two"]
    assert paths(tree, View(wanted="nothing")) == []


def test_a_wildcard_makes_a_topic_filter() -> None:
    assert topic_test("a/+")("a/b")
    assert not topic_test("a/+")("x/a/b")
    assert topic_test("A/")("x/a/b")


def test_topics_are_sorted_by_their_own_figures() -> None:
    tree = tree_of(*TREE)
    assert [topic for topic, _ in sorted_topics(tree, Order.SIZE)] == ["b/two", "a", "b/one"]
    assert [topic for topic, _ in sorted_topics(tree, Order.AGE)] == ["b/one", "a", "b/two"]
    assert [topic for topic, _ in sorted_topics(tree, Order.NAME)] == ["a", "b/one", "b/two"]
    assert [topic for topic, _ in sorted_topics(tree, Order.RATE)] == ["a", "b/one", "b/two"]
