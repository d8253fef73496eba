"""New values below a prefix."""

from __future__ import annotations

from mqttkit.live.tree import TopicTree
from mqttkit.messages import Message
from mqttkit.web.branches import Branch, BranchMessage, fixed_prefix


def test_each_value_is_news_once_in_the_order_of_arrival() -> None:
    tree = TopicTree()
    branch = Branch(tree, "a/b")
    assert branch.news() == []
    tree.add([Message("a/b/two", b"2")], 2.0)
    tree.add([Message("a/b/one", b"1"), Message("a/other", b"-")], 1.0)
    tree.add([Message("a/b/two", b"3")], 3.0)
    assert branch.news() == [
        BranchMessage("a/b/one", b"1", 1.0),
        BranchMessage("a/b/two", b"2", 2.0),
        BranchMessage("a/b/two", b"3", 3.0),
    ]
    assert branch.news() == []
    tree.add([Message("a/b/two", b"4")], 4.0)
    assert branch.news() == [BranchMessage("a/b/two", b"4", 4.0)]


def test_the_prefix_of_a_template_has_no_placeholder() -> None:
    assert fixed_prefix("ble/raw/{scanner_id}/{mac_address}") == "ble/raw"
    assert fixed_prefix("ble/x-{scanner_id}/y") == "ble"
    assert fixed_prefix("{scanner_id}/{mac_address}") == ""
