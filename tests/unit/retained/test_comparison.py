"""Two sets of retained messages."""

from __future__ import annotations

import pytest
from hypothesis import given

from mqttkit.messages import Message, Properties
from mqttkit.retained.comparison import Difference, differences, digest, digests
from tests.support.strategies import messages

BASE = Message("a", b"x", 1, True, properties=Properties(content_type="t", message_expiry_interval=9))


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(payload=b"y"),
        BASE._replace(qos=0),
        BASE._replace(properties=Properties(content_type="u")),
        BASE._replace(properties=None),
        BASE._replace(properties=Properties(content_type="t", user_properties=(("k", "v"),))),
    ],
)
def test_payload_qos_and_properties_make_a_difference(other: Message) -> None:
    """Each of them."""
    assert digest(other) != digest(BASE)


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(properties=Properties(content_type="t", message_expiry_interval=3)),
        BASE._replace(properties=Properties(content_type="t", subscription_identifiers=(4,))),
        BASE._replace(mid=7, epoch=2),
    ],
)
def test_what_a_broker_changes_on_the_way_does_not(other: Message) -> None:
    """Expiry counts down, subscription identifiers are the receiver's."""
    assert digest(other) == digest(BASE)


@given(messages)
def test_each_message_equals_itself_and_no_other_payload(message: Message) -> None:
    """Whatever its bytes are."""
    assert digest(message) == digest(message._replace(dup=not message.dup))
    assert digest(message) != digest(message._replace(payload=message.payload + b"."))


def test_differences_name_each_topic_once() -> None:
    """Missing, added and changed; what is equal is not named."""
    before = [Message("same", b"1"), Message("gone", b"1"), Message("other", b"1")]
    after = [Message("same", b"1"), Message("new", b"1"), Message("other", b"2")]
    assert sorted(differences(digests(before), after), key=lambda each: each.topic) == [
        Difference("gone", "missing"),
        Difference("new", "added"),
        Difference("other", "changed"),
    ]
