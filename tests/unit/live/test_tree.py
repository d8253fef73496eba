"""The tree of topics: counts, rates, totals, values, and memory that stays bounded."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.live.tree import WATCHED_VALUES, TopicNode, TopicTree
from mqttkit.messages import Message, Properties


def found(tree: TopicTree, topic: str) -> TopicNode:
    node = tree.find(topic)
    assert node is not None
    return node


def nodes_of(tree: TopicTree) -> list[TopicNode]:
    order = [tree.root]
    for node in order:
        order.extend((node.children or {}).values())
    return order


topics = st.lists(st.sampled_from(["", "a", "b", "$x", "é"]), min_size=1, max_size=5).map("/".join)
messages = st.builds(Message, topics, st.binary(max_size=40), st.sampled_from([0, 1, 2]), st.booleans())


@given(st.lists(messages, max_size=60))
def test_branches_add_up_their_topics(received: list[Message]) -> None:
    """The root's totals are those of all messages, and each topic has its own count and latest payload."""
    tree = TopicTree()
    tree.add(received, 1.0)
    tree.tick(1.0)
    latest = {message.topic: message for message in received}
    assert tree.root.total_count == tree.received == len(received)
    assert tree.root.topics == len(tree) == len(latest)
    assert tree.root.total_bytes == sum(len(message.payload) for message in latest.values())
    for topic, message in latest.items():
        node = found(tree, topic)
        assert node.path == topic
        assert node.message == message
        assert node.count == sum(one.topic == topic for one in received)


@given(st.lists(messages, max_size=80), st.integers(2, 6))
def test_values_are_the_latest_ones_in_order(received: list[Message], kept: int) -> None:
    tree = TopicTree(values=kept)
    for when, message in enumerate(received):
        tree.add([message], float(when))
    for topic, node in tree.topics():
        mine = [(float(when), one.payload) for when, one in enumerate(received) if one.topic == topic]
        assert node.history == mine[-kept:]


@given(st.lists(messages, max_size=120), st.integers(3_000, 30_000))
def test_memory_stays_below_the_limit(received: list[Message], limit: int) -> None:
    """Whatever arrives, the estimate is at most the limit, and no branch without topics is left."""
    tree = TopicTree(max_bytes=limit)
    for when, message in enumerate(received):
        tree.add([message], float(when))
        assert tree.used <= limit
    tree.tick(1.0)
    assert tree.root.topics == len(tree)
    assert all(node.children or node.message for node in nodes_of(tree)[1:])
    distinct = len({message.topic for message in received})
    assert len(tree) + tree.dropped.topics >= distinct


def test_the_estimate_is_what_the_memory_costs() -> None:
    """For 5,000 topics with 20 values each, the estimate is within 30 % of what Python allocates."""
    tracemalloc.start()
    try:
        tree = TopicTree(max_bytes=1 << 30, values=20)
        for number in range(20):
            tree.add([Message(f"site/room-{one}/value", b"%32d" % number) for one in range(5_000)], float(number))
        allocated = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.7 < tree.used / allocated < 1.3


def test_old_values_go_before_topics() -> None:
    """Short of memory, the tree first keeps two values of each topic; both are counted."""
    tree = TopicTree(max_bytes=80_000, values=10)
    for number in range(20):
        tree.add([Message(f"t/{one}", b"x" * 100) for one in range(40)], float(number))
    assert tree.dropped.values > 0
    assert tree.dropped.topics == 0
    tree.add([Message(f"more/{one}", b"x" * 100) for one in range(100)], 30.0)
    assert tree.dropped.topics > 0
    assert tree.find("more/99") is not None


def test_a_large_payload_is_cut() -> None:
    tree = TopicTree(max_bytes=64 * 1024)
    tree.add([Message("a", b"x" * 100_000)], 1.0)
    assert tree.dropped.cut == 1
    assert tree.used < 64 * 1024


def test_properties_count_as_memory() -> None:
    tree = TopicTree()
    tree.add([Message("a", properties=Properties(user_properties=(("name", "v" * 1000),)))], 1.0)
    with_properties = tree.used
    tree.add([Message("a")], 2.0)
    assert with_properties - tree.used > 1000


def test_a_rate_follows_the_traffic() -> None:
    """A topic with 10 messages each second shows 10/s within seconds, and 0 soon after the traffic ends."""
    tree = TopicTree()
    tree.tick(0.0)
    for second in range(1, 21):
        tree.add([Message("a/b")] * 10, second - 0.5)
        tree.tick(float(second))
    assert abs(found(tree, "a/b").rate - 10) < 0.2
    assert tree.root.total_rate == found(tree, "a/b").rate
    for second in range(21, 51):
        tree.tick(float(second))
    assert tree.root.total_rate < 0.01


def test_a_first_retained_message_is_not_traffic() -> None:
    tree = TopicTree()
    tree.tick(0.0)
    tree.add([Message("a", b"1", 0, True)], 0.5)
    tree.tick(1.0)
    node = found(tree, "a")
    assert node.rate == 0.0
    assert node.retained
    assert node.counted_live == 0


def test_an_empty_retained_message_removes_the_mark() -> None:
    """A message without the retain flag leaves the mark: the broker keeps the retained one."""
    tree = TopicTree()
    tree.add([Message("a", b"1", 0, True), Message("a", b"2")], 1.0)
    assert found(tree, "a").retained
    tree.add([Message("a", b"", 0, True)], 2.0)
    assert not found(tree, "a").retained


def test_the_watched_topic_keeps_more_values() -> None:
    tree = TopicTree(values=5)
    tree.add([Message("a"), Message("b")], 0.0)
    tree.watch(found(tree, "a"))
    for number in range(300):
        tree.add([Message("a", b"%d" % number), Message("b", b"%d" % number)], float(number))
    assert len(found(tree, "a").history) == WATCHED_VALUES
    assert len(found(tree, "b").history) == 5
    tree.watch(found(tree, "b"))
    assert len(found(tree, "a").history) == 5


def test_a_copy_does_not_change() -> None:
    tree = TopicTree()
    tree.add([Message("a/b", b"1")], 1.0)
    twin = tree.copy()
    tree.add([Message("a/b", b"2"), Message("a/c", b"3")], 2.0)
    assert found(twin, "a/b").history == [(1.0, b"1")]
    assert twin.find("a/c") is None
    assert [node.path for node in nodes_of(twin)] == ["", "a", "a/b"]


def test_many_levels_share_the_deepest_node() -> None:
    """A topic name of 65,535 slashes makes some dozen nodes, not 65,535."""
    tree = TopicTree()
    topic = "/" * 65_535
    tree.add([Message(topic)], 1.0)
    assert found(tree, topic).path == topic
    assert len(nodes_of(tree)) < 60


def test_clear_forgets_everything() -> None:
    tree = TopicTree()
    tree.add([Message("a/b", b"1")], 1.0)
    tree.clear()
    assert (len(tree), tree.used, tree.received) == (0, 0, 0)
