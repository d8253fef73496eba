"""The outbox: order, window, bounds, and what becomes of each publish."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.client.receiving.splitter import remaining_length
from mqttkit.client.sending.block import BlockReceipt
from mqttkit.client.sending.outbox import MAX_FAST_MID, Outbox
from mqttkit.client.sending.packet_batch import BATCH_BYTES, MAX_CACHED_LENGTHS, PacketBatch, PublishEncoder
from mqttkit.client.sending.publish_queue import MAX_PACKET
from mqttkit.client.sending.receipt import Receipt
from mqttkit.client.sending.send_limits import BrokerLimits
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings

TOPIC = b"\0\1t"
LARGE_OVERHEAD = 1 + 3 + len(TOPIC) + 2
"""Bytes of a large packet of QoS 1 beside its payload: first byte, length, topic, identifier."""


def make(**limits: int) -> Outbox:
    """Return an outbox with a connection."""
    outbox = Outbox(LimitSettings(**limits))
    outbox.resume()
    return outbox


def put(outbox: Outbox, payload: bytes = b"x", qos: int = 0, wait: float = 0.0) -> Receipt:
    """Queue a publish."""
    return outbox.put(TOPIC, payload, qos, retain=False, properties=b"", wait=wait)


def take(outbox: Outbox) -> PacketBatch:
    """Take a batch that must be there."""
    batch = outbox.take(v5=False)
    assert batch is not None
    return batch


def publishes(data: bytes) -> list[tuple[int, int, bytes]]:
    """Decode (first byte, packet identifier, payload) of each PUBLISH on TOPIC at MQTT 3.1.1."""
    found, position = [], 0
    while position < len(data):
        start, size = remaining_length(data, position)
        first, body = data[position], data[start + 3 : start + size]
        found.append((first, int.from_bytes(body[:2], "big"), body[2:]) if first & 6 else (first, 0, body))
        position = start + size
    return found


def test_order_is_kept_across_qos_while_the_window_is_open() -> None:
    """One thread's publishes leave in the order made."""
    outbox = make()
    for number in range(6):
        put(outbox, b"%d" % number, qos=number % 2)
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [b"%d" % n for n in range(6)]


def test_window_holds_qos_1_back_and_qos_0_passes() -> None:
    """No more than max_inflight are under way; an acknowledgement lets the next one go, in order."""
    outbox = make(max_inflight=2)
    receipts = [put(outbox, b"%d" % number, qos=1) for number in range(4)]
    put(outbox, b"zero")
    assert [p for _, _, p in publishes(take(outbox).data)] == [b"0", b"1", b"zero"]
    assert not outbox.ready()
    assert outbox.take(v5=False) is None
    outbox.acknowledge([(1, 0)])
    assert outbox.ready()
    assert publishes(take(outbox).data) == [(0x32, 3, b"2")]
    outbox.acknowledge([(3, 0x10), (2, 0x87)])
    assert publishes(take(outbox).data) == [(0x32, 4, b"3")]
    assert [r.outcome for r in receipts] == [Outcome.ACKNOWLEDGED, Outcome.DENIED, Outcome.ACKNOWLEDGED, None]
    assert (receipts[1].code, receipts[1].reason) == (0x87, "Not authorized")
    assert receipts[2].reason == "No matching subscribers"
    assert outbox.unresolved == 2, "the fourth, and the batch with QoS 0 that nobody said was sent"


def test_qos_2_has_a_smaller_window_without_receive_maximum() -> None:
    """QoS 2 waits at exact_window; a held one does not make the outbox look ready."""
    outbox = make()
    mids = iter(range(60_000, 60_010))
    outbox.publish_qos2 = lambda _item: next(mids)
    outbox.exact_window = 1
    first, second = put(outbox, b"1", qos=2), put(outbox, b"2", qos=2)
    assert outbox.take(v5=False) is None
    assert list(outbox.flights.values()) == [first]
    assert not outbox.ready()
    outbox.acknowledge([(60_000, 0)])
    assert outbox.ready()
    assert outbox.take(v5=False) is None
    assert list(outbox.flights.values()) == [second]


def test_packet_identifiers_under_way_are_not_given_twice() -> None:
    """A publish that waits long for its acknowledgement keeps its identifier while the numbers go round."""
    outbox = make(max_inflight=3)
    put(outbox, qos=1)
    take(outbox)
    outbox._mid = MAX_FAST_MID
    put(outbox, qos=1)
    assert publishes(take(outbox).data) == [(0x32, 2, b"x")]


def test_what_is_under_way_is_sent_again_with_dup_first_and_in_order() -> None:
    """A kept session: DUP, the same identifiers, before what waited; within the new window."""
    outbox = make(max_inflight=3)
    for number in range(4):
        put(outbox, b"%d" % number, qos=1)
    take(outbox)
    outbox.suspend()
    outbox.lose("gone", keep_acknowledged=True)
    outbox.resume(BrokerLimits(window=2))
    assert publishes(take(outbox).data) == [(0x3A, 1, b"0"), (0x3A, 2, b"1")]
    assert outbox.take(v5=False) is None
    assert not outbox.ready()
    outbox.acknowledge([(1, 0), (2, 0)])
    assert publishes(take(outbox).data) == [(0x3A, 3, b"2"), (0x32, 4, b"3")]


def test_lost_connection_without_a_session_loses_all() -> None:
    """Nothing stays unresolved, and the room is given back."""
    outbox = make(max_inflight=1)
    receipts = [put(outbox, qos=qos) for qos in (1, 1, 0)]
    batch = take(outbox)
    outbox.interrupted(batch, 0)
    outbox.suspend()
    outbox.lose("the connection ended", keep_acknowledged=False)
    assert {r.outcome for r in receipts} == {Outcome.LOST}
    assert (outbox.unresolved, outbox._bytes, outbox.flights) == (0, 0, {})
    assert put(outbox).outcome is Outcome.DROPPED


def test_half_sent_batch_tells_what_was_handed_over() -> None:
    """QoS 0 wholly handed over is sent; what was cut goes back to the front."""
    outbox = make()
    receipts = [put(outbox, b"%d" % number) for number in range(3)]
    batch = take(outbox)
    outbox.interrupted(batch, len(batch.parts[0]) + 2)
    put(outbox, b"3")
    assert [r.outcome for r in receipts] == [Outcome.SENT, None, None]
    assert [p for _, _, p in publishes(take(outbox).data)] == [b"1", b"2", b"3"]


def test_bounds_drop_and_say_so() -> None:
    """Too many, too many bytes, too large for the broker, too large for MQTT."""
    outbox = make(max_queued_messages=2, max_queued_bytes=100)
    assert not put(outbox, b"x" * 200).done, "an empty queue has room for anything"
    assert put(outbox).reason == "queue full"
    outbox.sent(take(outbox))
    assert [put(outbox).done for _ in range(3)] == [False, False, True]
    outbox.sent(take(outbox))
    outbox.resume(BrokerLimits(max_packet=50))
    receipt = put(outbox, b"x" * 60, qos=1)
    assert outbox.take(v5=False) is None
    assert (receipt.outcome, receipt.reason) == (Outcome.DROPPED, "larger than the broker's 50 bytes")
    assert (outbox.unresolved, outbox.flights) == (0, {})
    assert put(outbox, bytes(268_435_455)).reason == "larger than MQTT allows"
    assert outbox.dropped["queue full"] == 2


def test_waiting_for_room_ends_when_half_is_sent() -> None:
    """A caller that may wait gets room once the network thread has made it; the clock alone gives none."""
    outbox = make(max_queued_messages=4)
    for _ in range(4):
        put(outbox)
    assert put(outbox, wait=0.01).reason == "queue full"
    results: list[Receipt] = []
    waiting = threading.Thread(target=lambda: results.append(put(outbox, wait=600)))
    waiting.start()
    deadline = time.monotonic() + 60
    while not vars(outbox._room)["_waiters"] and time.monotonic() < deadline:
        time.sleep(0.001)
    outbox.sent(take(outbox))
    waiting.join(60)
    assert not results[0].done


def test_waiting_for_room_ends_when_the_connection_does() -> None:
    """Nobody waits for room that cannot come."""
    outbox = make(max_queued_messages=1)
    put(outbox)
    threading.Timer(0.05, outbox.suspend).start()
    started = time.monotonic()
    assert put(outbox, wait=600).reason == "not connected"
    assert time.monotonic() - started < 60


def test_many_threads_keep_their_own_order() -> None:
    """Each thread's publishes leave in its order, none lost, the counters exact."""
    outbox, data = make(max_queued_messages=500, max_inflight=40_000), []
    number = 500

    def run(name: int) -> None:
        for index in range(number):
            put(outbox, b"%d %d" % (name, index), qos=index % 2, wait=60)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or outbox.ready():
        batch = outbox.take(v5=False)
        if batch is not None:
            data.append(batch.data)
            outbox.sent(batch)
            outbox.acknowledge([(mid, 0) for first, mid, _ in publishes(batch.data) if first & 6])
    sent = [payload.split() for _, _, payload in publishes(b"".join(data))]
    for name in range(4):
        assert [int(i) for n, i in sent if int(n) == name] == list(range(number))
    assert outbox.unresolved == 0
    assert outbox.counts == {Outcome.SENT: 4 * number // 2, Outcome.ACKNOWLEDGED: 4 * number // 2}


def test_large_packets_go_alone_and_uncopied() -> None:
    """A batch ends before a packet that would make it large; a lone part is not joined."""
    outbox = make()
    put(outbox, b"small")
    put(outbox, bytes(BATCH_BYTES))
    put(outbox, b"small")
    assert [len(take(outbox).parts) for _ in range(3)] == [1, 1, 1]


def test_qos_0_pays_no_attention_to_acknowledgements_of_strangers() -> None:
    """An identifier that is not under way changes nothing."""
    outbox = make()
    outbox.acknowledge([(7, 0)])
    assert outbox.unresolved == 0


def test_a_receipt_waits_for_its_outcome() -> None:
    """None when the time is over, the outcome when it is known."""
    outbox = make()
    receipt = put(outbox)
    assert receipt.wait(0.01) is None
    threading.Timer(0.02, lambda: outbox.sent(take(outbox))).start()
    assert receipt.wait(60) is Outcome.SENT
    assert outbox.flush(60)
    assert repr(receipt) == "Receipt(sent)"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_encoding_is_pahos(sizes: list[int], v5: bool, retain: bool) -> None:
    """Fixed header, remaining length, topic, identifier and properties are encoded as paho does it."""
    from paho.mqtt import _packet
    from paho.mqtt.enums import MQTTProtocolVersion as Version

    outbox = make()
    for size in sizes:
        outbox.put(TOPIC, bytes(size), 1, retain=retain, properties=b"\x02\x01\x01")
    batch = outbox.take(v5=v5)
    assert batch is not None
    for number, part in enumerate(batch.parts, 1):
        start, length = remaining_length(part, 0)
        assert start + length == len(part)
        decoded = _packet.decode_publish(part[0], part[start:], Version.MQTTv5 if v5 else Version.MQTTv311)
        assert (decoded.topic, decoded.mid, decoded.qos, decoded.retain) == (b"t", number, 1, retain)
        assert decoded.payload == bytes(sizes[number - 1])
        assert not v5 or decoded.properties.PayloadFormatIndicator == 1


def test_qos_2_needs_paho() -> None:
    """An outbox without a client cannot publish exactly once."""
    outbox = make()
    put(outbox, qos=2)
    with pytest.raises(NotImplementedError):
        outbox.take(v5=False)


def put_and_wait(outbox: Outbox, payload: bytes = b"x") -> tuple[threading.Thread, list[Receipt]]:
    """Start a publish that waits for room, and return once it waits."""
    receipts: list[Receipt] = []
    waiting = threading.Thread(target=lambda: receipts.append(put(outbox, payload, wait=600)))
    waiting.start()
    deadline = time.monotonic() + 60
    while not vars(outbox._room)["_waiters"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert waiting.is_alive()
    return waiting, receipts


def test_room_is_given_once_half_of_the_messages_are_done() -> None:
    """With four allowed, a caller waits until two are left; one acknowledgement is not enough."""
    outbox = make(max_queued_messages=4)
    for _ in range(4):
        put(outbox, qos=1)
    take(outbox)
    waiting, receipts = put_and_wait(outbox)
    outbox.acknowledge([(1, 0)])
    waiting.join(0.1)
    assert waiting.is_alive()
    outbox.acknowledge([(2, 0)])
    waiting.join(60)
    assert [receipt.done for receipt in receipts] == [False]
    assert outbox.unresolved == 3


def test_room_is_given_once_half_of_the_bytes_are_done() -> None:
    """The bytes of the publish that waits count too."""
    outbox = make(max_queued_bytes=100)
    for _ in range(2):
        put(outbox, b"x" * 42, qos=1)
    take(outbox)
    waiting, receipts = put_and_wait(outbox, b"x" * 42)
    outbox.acknowledge([(1, 0)])
    waiting.join(0.1)
    assert waiting.is_alive()
    outbox.acknowledge([(2, 0)])
    waiting.join(60)
    assert [receipt.done for receipt in receipts] == [False]


@pytest.mark.parametrize("queued", [0, 3])
def test_a_publish_that_has_room_does_not_wait(queued: int) -> None:
    """There is room below the bounds, and in an empty queue for a message larger than all of it."""
    outbox = make(max_queued_messages=4, max_queued_bytes=100)
    for _ in range(queued):
        put(outbox)
    started = time.monotonic()
    assert not put(outbox, b"x" * (50 if queued else 200), wait=600).done
    assert time.monotonic() - started < 60


def test_the_bounds_themselves_are_allowed() -> None:
    """As many bytes as the limit says, and not one more."""
    outbox = make(max_queued_bytes=100)
    assert not put(outbox, b"x" * 47).done
    assert not put(outbox, b"x" * 47).done
    assert put(outbox, b"").reason == "queue full"
    assert (outbox.counts, outbox.dropped) == ({Outcome.DROPPED: 1}, {"queue full": 1})


def test_the_largest_packet_that_mqtt_allows() -> None:
    """268,435,455 bytes after the fixed header (MQTT 5, 1.5.5): here 3 of topic, 3 of identifier and properties."""
    outbox = make()
    assert put(outbox, bytes(MAX_PACKET - 6 + 1)).reason == "larger than MQTT allows"
    assert not put(outbox, bytes(MAX_PACKET - 6)).done


def test_the_largest_packet_that_the_broker_takes() -> None:
    """A packet of exactly that size is sent; a larger one is counted as dropped, and its room is given back."""
    outbox = make()
    outbox.resume(BrokerLimits(max_packet=50))
    receipts = [put(outbox, bytes(size)) for size in (45, 46)]
    batch = take(outbox)
    assert len(batch.data) == 50
    assert [receipt.done for receipt in receipts] == [False, True]
    assert (outbox.counts, outbox.dropped) == ({Outcome.DROPPED: 1}, {receipts[1].reason: 1})
    outbox.sent(batch)
    assert (outbox.unresolved, outbox._bytes) == (0, 0)


def test_refused_publishes_are_counted_by_cause() -> None:
    """A publish that never gets into the queue takes no room."""
    outbox = make()
    assert outbox.refuse("closed", TOPIC).reason == "closed"
    assert (outbox.counts, outbox.dropped, outbox.unresolved) == ({Outcome.DROPPED: 1}, {"closed": 1}, 0)


@pytest.mark.parametrize("code", [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
def test_reasons_have_the_names_of_the_specification(code: int) -> None:
    """Codes from 0x80 on deny the publish (MQTT 5, 3.4.2.1)."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode

    outbox = make()
    receipt = put(outbox, qos=1)
    take(outbox)
    outbox.acknowledge([(1, code)])
    assert receipt.reason == ReasonCode(PacketTypes.PUBACK, identifier=code).getName()
    assert receipt.outcome is (Outcome.ACKNOWLEDGED if code == 0x10 else Outcome.DENIED)


def test_what_is_sent_again_makes_the_outbox_ready_even_with_a_window_of_one() -> None:
    """A kept session with one publish under way."""
    outbox = make(max_inflight=1)
    put(outbox, qos=1)
    take(outbox)
    outbox.suspend()
    outbox.lose("gone", keep_acknowledged=True)
    outbox.resume()
    assert outbox.ready()
    assert publishes(take(outbox).data) == [(0x3A, 1, b"x")]
    assert not outbox.ready()


def test_a_kept_session_keeps_qos_1_and_loses_qos_0() -> None:
    """Nobody acknowledges QoS 0: whether it arrived cannot be known."""
    outbox = make()
    receipts = [put(outbox, qos=qos) for qos in (0, 1)]
    outbox.suspend()
    outbox.lose("gone", keep_acknowledged=True)
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [(Outcome.LOST, "gone"), (None, "")]
    assert (outbox.unresolved, outbox.counts, outbox.dropped) == (1, {Outcome.LOST: 1}, {})


def test_acknowledgements_go_first_and_only_once() -> None:
    """What is received is acknowledged before anything else is sent; a new connection forgets the old ones."""
    outbox = make()
    receipt = put(outbox)
    outbox.acknowledgements.extend([b"\x40\x02\0\1", b"\x40\x02\0\2"])
    assert outbox.ready()
    batch = take(outbox)
    assert batch.data.startswith(b"\x40\x02\0\1\x40\x02\0\2\x30")
    outbox.interrupted(batch, len(batch.data))
    assert receipt.outcome is Outcome.SENT
    assert (outbox.ready(), outbox.take(v5=False)) == (False, None)
    outbox.acknowledgements.append(b"\x40\x02\0\3")
    outbox.resume()
    assert outbox.take_acknowledgements() == b""


@pytest.mark.parametrize(("handed_over", "outcome"), [(-1, None), (0, Outcome.SENT)])
def test_a_packet_is_sent_once_its_last_byte_is_handed_over(handed_over: int, outcome: Outcome | None) -> None:
    """One byte less, and it goes back to the queue."""
    outbox = make()
    receipt = put(outbox)
    batch = take(outbox)
    outbox.interrupted(batch, len(batch.data) + handed_over)
    assert receipt.outcome is outcome
    assert outbox.ready() is (outcome is None)


def test_a_batch_is_filled_to_its_last_byte() -> None:
    """The packet that makes it exactly as large as allowed belongs to it, the next one does not."""
    outbox = make()
    put(outbox, b"first")
    put(outbox, bytes(BATCH_BYTES - len(b"\x30\x08\0\1tfirst")))
    put(outbox, b"third")
    assert [len(take(outbox).parts) for _ in range(2)] == [2, 1]


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX_PACKET])
def test_remaining_length_takes_as_few_bytes_as_it_can(length: int) -> None:
    """Seven bits a byte, the least first (MQTT 5, 1.5.5)."""
    header = PublishEncoder().fixed_header(0x30, length)
    assert header[0] == 0x30
    assert len(header) - 1 == sum(length >= bound for bound in (0, 128, 16_384, 2_097_152))
    assert remaining_length(header, 0) == (len(header), length)


def test_remembered_lengths_are_bounded() -> None:
    """Messages of many different sizes do not fill the memory."""
    encoder, sizes = PublishEncoder(), []
    for length in range(2 * MAX_CACHED_LENGTHS):
        encoder.fixed_header(0x30, length)
        sizes.append(len(encoder._lengths))
    assert max(sizes) == MAX_CACHED_LENGTHS == 4_096
    assert sizes[MAX_CACHED_LENGTHS] == 1


def test_flush_says_whether_everything_is_done() -> None:
    """False if the time is over first."""
    outbox = make()
    put(outbox)
    assert outbox.flush(0.01) is False
    outbox.sent(take(outbox))
    assert outbox.flush(0) is True


def test_packet_identifiers_leave_room_for_pahos_own() -> None:
    """After 49,151 the numbers start again at 1."""
    outbox = make()
    outbox._mid = MAX_FAST_MID - 1
    for _ in range(2):
        put(outbox, qos=1)
    assert [mid for _, mid, _ in publishes(take(outbox).data)] == [49_151, 1]


@pytest.mark.parametrize(("window", "exact_window"), [(2, 1), (1, 5)])
def test_qos_2_stays_within_both_windows(window: int, exact_window: int) -> None:
    """The smaller of the two counts."""
    outbox = make(max_inflight=window)
    outbox.exact_window = exact_window
    mids = iter((60_000, 60_001))
    outbox.publish_qos2 = lambda _item: next(mids)
    first = put(outbox, qos=2)
    put(outbox, qos=2)
    outbox.take(v5=False)
    assert list(outbox.flights.values()) == [first]


def packet_size(qos: int, properties: bytes, *, v5: bool) -> int:
    """Return the size of the packet of a publish with a payload of 100 bytes."""
    outbox = make()
    outbox.put(TOPIC, bytes(100), qos, retain=False, properties=properties)
    batch = outbox.take(v5=v5)
    assert batch is not None
    return len(batch.data)


@pytest.mark.parametrize("v5", [True, False])
@pytest.mark.parametrize("properties", [b"", b"\x02\x01\x01"])
@pytest.mark.parametrize("qos", [0, 1])
def test_the_limit_of_the_broker_counts_the_whole_packet(qos: int, properties: bytes, v5: bool) -> None:
    """A packet of exactly the limit goes; one byte more is dropped."""
    limit = packet_size(qos, properties, v5=v5)
    outbox = make()
    for max_packet, outcome in ((limit, None), (limit - 1, Outcome.DROPPED)):
        outbox.resume(BrokerLimits(max_packet=max_packet))
        receipt = outbox.put(TOPIC, bytes(100), qos, retain=False, properties=properties)
        outbox.take(v5=v5)
        assert receipt.outcome is outcome


def test_a_closed_outbox_loses_everything_and_takes_nothing_more() -> None:
    """Also what a kept session would keep; another connection changes nothing."""
    outbox = Outbox(LimitSettings(max_inflight=1), keeps_session=True)
    outbox.resume()
    receipts = [put(outbox, qos=1), put(outbox, qos=1)]
    take(outbox)
    receipts += [put(outbox, qos=1), put(outbox)]
    outbox.close("the client was closed")
    assert [receipt.outcome for receipt in receipts] == [Outcome.LOST] * 4
    assert {receipt.reason for receipt in receipts} == {"the client was closed"}
    assert put(outbox, qos=1).reason == "the client is closed"
    outbox.resume()
    assert put(outbox, qos=1).reason == "the client is closed"
    assert outbox.take(v5=True) is None


def test_what_was_lost_is_not_sent() -> None:
    """Without a session the next connection begins with an empty queue."""
    outbox = make()
    put(outbox, qos=1)
    outbox.lose("gone", keep_acknowledged=False)
    outbox.resume()
    assert not outbox.ready()
    assert outbox.take(v5=True) is None


@pytest.mark.parametrize("dup", [False, True])
def test_a_full_batch_takes_no_empty_message(dup: bool) -> None:
    """The next packet waits for the next batch, when first sent and when sent again."""
    outbox = make()
    put(outbox, bytes(BATCH_BYTES - LARGE_OVERHEAD), qos=1)
    put(outbox, b"", qos=1)
    if dup:
        take(outbox)
        take(outbox)
        outbox.resume()
    assert len(take(outbox).data) == BATCH_BYTES
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [b""]


def test_held_messages_that_do_not_fit_keep_their_place() -> None:
    """What comes after them does not overtake them."""
    outbox = make(max_inflight=2)
    large = bytes(BATCH_BYTES // 2)
    for payload in (b"1", b"2", large, large):
        put(outbox, payload, qos=1)
    assert len(publishes(take(outbox).data)) == 2
    put(outbox, b"zero")
    outbox.acknowledge([(1, 0), (2, 0)])
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [large]
    assert [payload for _, _, payload in publishes(take(outbox).data)] == [large, b"zero"]


def test_qos_0_passes_a_held_message_in_a_later_batch() -> None:
    """A full window holds QoS 1 and 2 only."""
    outbox = make(max_inflight=1)
    put(outbox, b"1", qos=1)
    put(outbox, b"2", qos=1)
    take(outbox)
    put(outbox, b"zero")
    assert publishes(take(outbox).data) == [(0x30, 0, b"zero")]


def test_an_unknown_acknowledgement_does_not_hide_the_next_one() -> None:
    """A broker may send both in one read."""
    outbox = make()
    receipt = put(outbox, qos=1)
    take(outbox)
    outbox.acknowledge([(77, 0), (1, 0)])
    assert receipt.outcome is Outcome.ACKNOWLEDGED


def test_the_first_held_message_decides_whether_something_can_be_sent() -> None:
    """QoS 1 does not overtake QoS 2."""
    outbox = make()
    outbox.publish_qos2, outbox.exact_window = lambda _item: 60_000, 1
    for qos in (2, 2, 1):
        put(outbox, qos=qos)
    assert outbox.take(v5=True) is None
    assert not outbox.ready()
    outbox.acknowledge([(60_000, 0)])
    assert outbox.ready()


@pytest.mark.parametrize("is_block", [False, True])
def test_a_qos_2_message_takes_no_room_in_the_batch(is_block: bool) -> None:
    """paho sends it: a large message behind it goes in the same turn."""
    outbox = make()
    outbox.publish_qos2 = lambda _item: 60_000
    if is_block:
        outbox.put_block(BlockReceipt(outbox.condition, TOPIC, [b"x"], 2))
    else:
        put(outbox, qos=2)
    put(outbox, bytes(2 * BATCH_BYTES))
    assert len(take(outbox).data) > 2 * BATCH_BYTES


def test_qos_1_does_not_wait_for_the_window_of_qos_2() -> None:
    """Only QoS 2 counts against it."""
    outbox = make()
    outbox.publish_qos2, outbox.exact_window = lambda _item: 60_000, 1
    put(outbox, qos=2)
    assert outbox.take(v5=False) is None
    put(outbox, qos=1)
    assert publishes(take(outbox).data) == [(0x32, 1, b"x")]
