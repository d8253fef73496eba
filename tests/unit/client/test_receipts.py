"""The receipts of plain paho: what a loss means for a publish that paho is just being given."""

from __future__ import annotations

import pytest

from mqttkit.client.receipts import PlainOutbox
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings


@pytest.mark.parametrize(
    ("qos", "kept", "outcome"),
    [
        (0, False, Outcome.LOST),
        (0, True, Outcome.LOST),
        (1, False, Outcome.LOST),
        (1, True, None),
    ],
)
def test_a_connection_that_ends_during_publish_leaves_no_receipt_open(
    qos: int, kept: bool, outcome: Outcome | None
) -> None:
    """The network thread may report the end between paho's `publish` and the filing of the receipt."""
    outbox = PlainOutbox(LimitSettings())
    receipt = outbox.reserve(10, 0.0)
    outbox.lose("the connection ended", keep_acknowledged=kept)
    outbox.register(1, qos, receipt)
    assert receipt.outcome is outcome
    assert outbox.flush(0) is (outcome is not None)


def test_a_loss_does_not_touch_what_is_published_after_it() -> None:
    """The next publish has a receipt of its own fate, though it may bear the same packet identifier."""
    outbox = PlainOutbox(LimitSettings())
    lost = outbox.reserve(10, 0.0)
    outbox.lose("the connection ended", keep_acknowledged=False)
    later = outbox.reserve(10, 0.0)
    outbox.register(1, 1, lost)
    outbox.register(1, 1, later)
    outbox.settle(1, 0, "")
    assert (lost.outcome, later.outcome) == (Outcome.LOST, Outcome.ACKNOWLEDGED)
    assert outbox.flush(0)
