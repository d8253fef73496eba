"""`publish_many`: a block in the outbox goes out like single publishes, and the outcome of each message is known."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.client.sending.block import BlockReceipt, Failure
from mqttkit.client.sending.outbox import MAX_FAST_MID, Outbox
from mqttkit.client.sending.packet_batch import BATCH_BYTES
from mqttkit.client.sending.publish_queue import MAX_PACKET, TOO_LARGE
from mqttkit.client.sending.send_limits import BrokerLimits
from mqttkit.errors import PublishDenied, PublishLost
from mqttkit.messages import Outcome
from tests.unit.client.test_outbox import TOPIC, make, publishes, put, take

SENT, ACKNOWLEDGED, DENIED, DROPPED, LOST = (
    Outcome.SENT,
    Outcome.ACKNOWLEDGED,
    Outcome.DENIED,
    Outcome.DROPPED,
    Outcome.LOST,
)


def put_block(outbox: Outbox, payloads: list[bytes], qos: int = 0, wait: float = 0.0) -> BlockReceipt:
    """Queue a block as `publish_many` does."""
    block = BlockReceipt(outbox.condition, TOPIC, list(payloads), qos)
    while block.queued < len(block):
        cause = outbox.put_block(block, wait)
        if cause:
            outbox.refuse_rest(block, cause)
    return block


def numbers(count: int) -> list[bytes]:
    """Return as many payloads."""
    return [b"%d" % number for number in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20_000), min_size=1, max_size=40),
    st.integers(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"", b"\x02\x01\x01"]),
)
def test_a_block_is_encoded_like_single_publishes(
    sizes: list[int], qos: int, retain: bool, v5: bool, properties: bytes
) -> None:
    """The same bytes and identifiers, whatever the sizes, flags, version and properties."""
    payloads = [bytes(size) for size in sizes]
    one_by_one, together = make(), make()
    for payload in payloads:
        one_by_one.put(TOPIC, payload, qos, retain=retain, properties=properties)
    together.put_block(BlockReceipt(together.condition, TOPIC, payloads, qos, retain, properties))
    expected, found = b"", b""
    while batch := one_by_one.take(v5=v5):
        expected += batch.data
    while batch := together.take(v5=v5):
        assert len(batch.data) <= BATCH_BYTES or len(batch.slices) == 1
        found += batch.data
    assert found == expected
    assert together.flights.keys() == one_by_one.flights.keys()


def test_a_sent_block_is_done() -> None:
    """QoS 0: sent, nothing left in the outbox, payloads let go; an empty block is done from the start."""
    outbox = make()
    block = put_block(outbox, numbers(3))
    assert (block.outcome, block.unresolved, block.outcomes) == (None, 3, [None] * 3)
    outbox.sent(take(outbox))
    assert (block.outcome, block.ok, block.delivered, block.outcomes) == (SENT, True, 3, [SENT] * 3)
    assert (block.payloads, outbox.unresolved, outbox._bytes, outbox.counts) == ([], 0, 0, {SENT: 3})
    assert block.result(0) is SENT
    assert put_block(outbox, []).result(0) is SENT


def test_half_sent_block_knows_which_messages_were_handed_over() -> None:
    """What the socket took whole is sent; the others go back to the front, in order, and are lost with the client."""
    outbox = make()
    first, block, last = put(outbox, b"a"), put_block(outbox, numbers(4)), put(outbox, b"z")
    batch = take(outbox)
    outbox.interrupted(batch, sum(map(len, batch.parts[:5])) + 3)
    assert (first.outcome, block.outcomes, last.outcome) == (SENT, [SENT, SENT, None, None], None)
    batch = take(outbox)
    assert [payload for _, _, payload in publishes(batch.data)] == [b"2", b"3", b"z"]
    outbox.interrupted(batch, 0)
    outbox.close("closed")
    assert block.outcomes == [SENT, SENT, LOST, LOST]
    assert block.failures == [Failure(2, LOST, "closed", 0), Failure(3, LOST, "closed", 0)]
    with pytest.raises(PublishLost, match="message 3 of 4: closed"):
        block.result(0)


def test_acknowledgements_in_any_order_resolve_their_messages() -> None:
    """QoS 1: a range of identifiers; a denial is that of its message, with its reason."""
    outbox = make(max_inflight=4)
    block = put_block(outbox, numbers(6), qos=1)
    assert [mid for _, mid, _ in publishes(take(outbox).data)] == [1, 2, 3, 4]
    assert not outbox.ready()
    outbox.acknowledge([(4, 0), (2, 0x87), (1, 0x10)])
    assert block.outcomes == [ACKNOWLEDGED, DENIED, None, ACKNOWLEDGED, None, None]
    assert (block.delivered, block.failed, block.unresolved) == (2, 1, 3)
    assert publishes(take(outbox).data) == [(0x32, 5, b"4"), (0x32, 6, b"5")]
    outbox.acknowledge([(3, 0), (5, 0), (6, 0)])
    assert block.failures == [Failure(1, DENIED, "Not authorized", 0x87)]
    with pytest.raises(PublishDenied, match="message 2 of 6: not authorized") as caught:
        block.result(0)
    assert caught.value.code == 0x87
    assert (outbox.unresolved, outbox._bytes, outbox.flights) == (0, 0, {})
    assert outbox.counts == {ACKNOWLEDGED: 5, DENIED: 1}


def test_identifiers_in_flight_and_the_last_one_are_passed_over() -> None:
    """A range ends before an identifier that is taken, and before the first of paho's."""
    outbox = make(max_inflight=10)
    put(outbox, b"slow", qos=1)
    take(outbox)
    outbox._mid = MAX_FAST_MID - 2
    block = put_block(outbox, numbers(5), qos=1)
    assert [mid for _, mid, _ in publishes(take(outbox).data)] == [MAX_FAST_MID - 1, MAX_FAST_MID, 2, 3, 4]
    outbox._mid = 0
    outbox.acknowledge([(MAX_FAST_MID, 0), (2, 0), (MAX_FAST_MID - 1, 0), (4, 0)])
    assert block.outcomes == [ACKNOWLEDGED, ACKNOWLEDGED, ACKNOWLEDGED, None, ACKNOWLEDGED]
    put_block(outbox, numbers(3), qos=1)
    assert [mid for _, mid, _ in publishes(take(outbox).data)] == [2, 4, 5]


def test_what_is_in_flight_is_sent_again_with_dup() -> None:
    """A kept session: the same identifiers and payloads, then the rest of the block."""
    outbox = make(max_inflight=2)
    block = put_block(outbox, numbers(3), qos=1)
    take(outbox)
    outbox.acknowledge([(1, 0)])
    outbox.suspend()
    outbox.lose("gone", keep_acknowledged=True)
    outbox.resume()
    assert publishes(take(outbox).data) == [(0x3A, 2, b"1"), (0x32, 3, b"2")]
    outbox.suspend()
    outbox.lose("gone", keep_acknowledged=False)
    assert block.outcomes == [ACKNOWLEDGED, LOST, LOST]


def test_messages_that_the_broker_does_not_take_are_dropped_and_the_others_go() -> None:
    """Only those above its Maximum Packet Size, before they are sent and before they are sent again."""
    outbox = make()
    outbox.resume(BrokerLimits(max_packet=20))
    large = b"x" * 40
    block = put_block(outbox, [large, b"1", large, large, b"4", b"5", large])
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [b"1", b"4", b"5"]
    assert [failure.place for failure in block.failures] == [0, 2, 3, 6]
    assert block.failures[0].reason == "larger than the broker's 20 bytes"
    outbox.resume()
    again = put_block(outbox, [b"1", large, b"2"], qos=1)
    take(outbox)
    outbox.suspend()
    outbox.resume(BrokerLimits(max_packet=20))
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [b"1", b"2"]
    assert again.outcomes == [None, DROPPED, None]


def test_each_size_is_compared_with_the_limit_of_the_broker_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message that the broker does not take must not make every later batch look at the whole block again."""
    looks = 0
    refusal = Outbox._refusal_by_broker

    def count(*arguments: Any, **options: Any) -> str:
        nonlocal looks
        looks += 1
        return refusal(*arguments, **options)

    monkeypatch.setattr(Outbox, "_refusal_by_broker", count)
    outbox = make()
    outbox.resume(BrokerLimits(max_packet=20, window=10))
    block = put_block(outbox, [*numbers(500), b"x" * 40, *numbers(500)], qos=1)
    while outbox.take(v5=True):
        outbox.acknowledge([(mid, 0) for mid in list(outbox.flights)])
    assert (block.delivered, block.failed) == (1000, 1)
    assert looks < 5 * len(block)


def test_messages_without_room_are_dropped_and_those_with_room_are_not() -> None:
    """Bounds in messages and in bytes; an empty queue has room for one of any size."""
    outbox = make(max_queued_messages=3)
    block = put_block(outbox, numbers(5))
    assert block.outcomes == [None, None, None, DROPPED, DROPPED]
    assert block.failures[0].reason == "queue full"
    assert (outbox.counts, outbox.dropped, outbox.unresolved) == ({DROPPED: 2}, {"queue full": 2}, 3)
    outbox.sent(take(outbox))
    outbox = make(max_queued_bytes=100)
    assert put_block(outbox, [b"x" * 40, b"x" * 40, b"x" * 40]).outcomes == [None, None, DROPPED]
    outbox.sent(take(outbox))
    assert put_block(outbox, [b"x" * 200, b"x"]).outcomes == [None, DROPPED]


def test_a_block_waits_for_room() -> None:
    """With `wait` everything goes, in as many slices as the bounds need, and in order."""
    outbox, found = make(max_queued_messages=10), b""
    blocks: list[BlockReceipt] = []
    thread = threading.Thread(target=lambda: blocks.append(put_block(outbox, numbers(95), wait=60)))
    thread.start()
    while thread.is_alive() or outbox.ready():
        batch = outbox.take(v5=False)
        if batch is not None:
            found += batch.data
            outbox.sent(batch)
    assert [payload for _, _, payload in publishes(found)] == numbers(95)
    assert blocks[0].ok


def test_a_message_too_large_for_mqtt_is_dropped_alone() -> None:
    """The messages before and after it go."""
    outbox = make(max_queued_bytes=2 * MAX_PACKET)
    block = put_block(outbox, [b"1", bytes(MAX_PACKET), b"2"])
    assert block.failures == [Failure(1, DROPPED, TOO_LARGE, 0)]
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [b"1", b"2"]


def test_qos_2_goes_through_paho_one_by_one() -> None:
    """Within its window; each identifier resolves its message."""
    outbox, given = make(), list[bytes]()
    outbox.publish_qos2 = lambda item: given.append(item.payload) or 60_000 + len(given)  # type: ignore[func-returns-value]
    outbox.exact_window = 2
    block = put_block(outbox, numbers(3), qos=2)
    assert outbox.take(v5=True) is None
    assert given == [b"0", b"1"]
    outbox.acknowledge([(60_002, 0)])
    assert outbox.take(v5=True) is None
    outbox.acknowledge([(60_001, 0x97), (60_003, 0)])
    assert block.outcomes == [DENIED, ACKNOWLEDGED, ACKNOWLEDGED]


def test_an_outcome_that_is_not_there_yet_is_waited_for() -> None:
    """`wait` returns None when the time is over, `result` raises TimeoutError with the count."""
    outbox = make(max_inflight=1)
    block = put_block(outbox, numbers(2), qos=1)
    take(outbox)
    outbox.acknowledge([(1, 0)])
    assert block.wait(0.01) is None
    with pytest.raises(TimeoutError, match=r"1 of 2 publishes to 't' within 0\.01 s"):
        block.result(0.01)
    take(outbox)
    threading.Timer(0.02, lambda: outbox.acknowledge([(2, 0)])).start()
    assert block.wait(60) is ACKNOWLEDGED
    assert repr(block) == "BlockReceipt(2 messages, 0 pending, 0 failed)"


@pytest.mark.parametrize("qos", [0, 1])
def test_a_block_fills_what_is_left_of_a_batch(qos: int) -> None:
    """It does not begin a batch of its own size."""
    outbox = make()
    put(outbox, bytes(BATCH_BYTES * 3 // 4))
    put_block(outbox, [bytes(1000)] * 400, qos)
    assert BATCH_BYTES - 1100 < len(take(outbox).data) <= BATCH_BYTES


@pytest.mark.parametrize(("code", "outcome"), [(0x7F, ACKNOWLEDGED), (0x80, DENIED)])
def test_reason_codes_from_0x80_are_denials(code: int, outcome: Outcome) -> None:
    """For messages of blocks and for single ones."""
    outbox = make()
    block, single = put_block(outbox, [b"x"], qos=1), put(outbox, qos=1)
    take(outbox)
    outbox.acknowledge([(1, code), (2, code)])
    assert block.outcome is single.outcome is outcome


def test_acknowledgements_in_a_row_are_counted_together() -> None:
    """One wake-up for each row, wherever in the read it begins."""
    outbox, wakes = make(), []
    block = put_block(outbox, numbers(10), qos=1)
    take(outbox)
    outbox.on_resolved = lambda: wakes.append(block.delivered)
    outbox.acknowledge([(mid, 0) for mid in (1, 2, 3, 7, 8, 9, 10)])
    assert wakes == [3, 7]
