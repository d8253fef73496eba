"""What a receipt returns and raises for each outcome."""

from __future__ import annotations

import pytest

from mqttkit.client import Receipt
from mqttkit.client.sending.outbox import Outbox
from mqttkit.errors import PublishDenied, PublishLost
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings


def publish(outbox: Outbox, qos: int = 1) -> Receipt:
    """Put a message to topic `t` into the outbox and let the network thread take it."""
    outbox.resume()
    receipt = outbox.put(b"\0\1t", b"x", qos, retain=False, properties=b"")
    batch = outbox.take(v5=True)
    assert batch is not None
    outbox.sent(batch)
    return receipt


def test_result_returns_the_outcome_of_a_delivered_message() -> None:
    """SENT at QoS 0, ACKNOWLEDGED at QoS 1."""
    outbox = Outbox(LimitSettings())
    assert publish(outbox, 0).result(0) is Outcome.SENT
    receipt = publish(outbox)
    outbox.acknowledge([(1, 0)])
    assert receipt.result(0) is Outcome.ACKNOWLEDGED


def test_result_raises_what_the_broker_answered() -> None:
    """A reason code of 128 or above is PublishDenied, with topic, reason and code."""
    outbox = Outbox(LimitSettings())
    receipt = publish(outbox)
    outbox.acknowledge([(1, 0x87)])
    with pytest.raises(PublishDenied, match="publish to 't' denied: not authorized") as caught:
        receipt.result(0)
    assert (caught.value.topic, caught.value.code, caught.value.exit_code) == ("t", 0x87, 6)
    assert receipt.wait(0) is Outcome.DENIED


def test_result_raises_if_the_connection_ended_first() -> None:
    """PublishLost names the topic and the cause."""
    outbox = Outbox(LimitSettings())
    receipt = publish(outbox)
    outbox.lose("the connection ended", keep_acknowledged=False)
    with pytest.raises(PublishLost, match="publish to 't' not delivered: the connection ended"):
        receipt.result(0)
    assert receipt.wait(0) is Outcome.LOST


def test_result_raises_for_a_dropped_message() -> None:
    """A message that was never sent is PublishLost too, and the error names its topic."""
    with pytest.raises(PublishLost, match="publish to 't' not delivered: not connected"):
        Outbox(LimitSettings()).refuse("not connected", b"\0\1t").result(0)


def test_result_raises_timeout_error_while_the_outcome_is_unknown() -> None:
    """`wait` returns None for the same state."""
    receipt = publish(Outbox(LimitSettings()))
    with pytest.raises(TimeoutError, match=r"no acknowledgement for the publish to 't' within 0\.01 s"):
        receipt.result(0.01)
    assert receipt.wait(0.01) is None
