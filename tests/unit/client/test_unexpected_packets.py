"""Packets that MQTT or our limits do not allow end the connection; what a broker makes us keep stays small."""

from __future__ import annotations

import pytest

from mqttkit.client.receiving import unexpected
from mqttkit.client.receiving.splitter import MAX_CACHED_BYTES, MAX_CACHED_TOPIC_BYTES
from mqttkit.client.receiving.unexpected import MAX_CONTROL_BYTES, MAX_PROPERTY_BYTES, UnexpectedPacket
from mqttkit.client.sending.send_limits import BrokerLimits, clamp_packet_size
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings
from tests.support.packets import encode_length, packet
from tests.unit.client.harness import CONNACK_V5, BatchedSide


def publish(qos: int, mid: int, payload: bytes = b"x", *, v5: bool = True, section: bytes = b"\0") -> bytes:
    """Return a PUBLISH on topic t."""
    return packet(
        0x30 | qos << 1, b"\0\1t" + (mid.to_bytes(2, "big") if qos else b"") + (section if v5 else b"") + payload
    )


def expect_unexpected(side: BatchedSide, data: bytes, text: str) -> None:
    """Feed the client; it must raise with this text."""
    with pytest.raises(UnexpectedPacket, match=text):
        side.feed([data])
    side.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("v5", [True, False])
def test_a_message_before_connack_is_refused(qos: int, v5: bool) -> None:
    """It is not delivered (MQTT 5, 3.2)."""
    side = BatchedSide(v5=v5)
    side._connack = publish(qos, 7, v5=v5)
    side.close()
    with pytest.raises(UnexpectedPacket, match="PUBLISH in place of CONNACK"):
        side.reconnect()
    assert side.messages == []
    side.close()


def test_a_second_connack_is_refused() -> None:
    """CONNACK comes once."""
    expect_unexpected(BatchedSide(v5=True), CONNACK_V5, "a second CONNACK")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_topic_alias_is_refused(qos: int) -> None:
    """Our CONNECT has no Topic Alias Maximum, so the broker may send none (MQTT 5, 3.1.2.11.5)."""
    expect_unexpected(BatchedSide(v5=True), publish(qos, 7, section=b"\3\x23\0\1"), "topic alias")


def test_a_packet_above_our_maximum_is_refused_before_it_is_read() -> None:
    """Its fixed header is enough; a packet of exactly the maximum is taken."""
    limits = LimitSettings(max_packet_size=2_000)
    side = BatchedSide(v5=True, limits=limits)
    side.feed([publish(0, 0, bytes(2_000 - 3 - 4))])
    assert len(side.messages) == 1
    expect_unexpected(
        side, b"\x30" + encode_length(1_998) + b"\0\1t", r"2001 bytes, more than mqtt.limits.max_packet_size"
    )


@pytest.mark.parametrize("first", [0xE0, 0x90, 0x40, 0xB0])
def test_a_huge_packet_other_than_publish_is_refused(first: int) -> None:
    """A DISCONNECT of 240 MB took 1.4 GiB."""
    expect_unexpected(BatchedSide(v5=True), bytes((first,)) + encode_length(MAX_CONTROL_BYTES), "bytes")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_huge_property_section_is_refused(qos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded, small user properties take many times their size."""
    assert MAX_PROPERTY_BYTES <= 1 << 20
    size = 20_000
    monkeypatch.setattr(unexpected, "MAX_PROPERTY_BYTES", size - 1)
    expect_unexpected(
        BatchedSide(v5=True), publish(qos, 7, section=encode_length(size) + bytes(size)), "bytes of properties"
    )


def test_qos_2_is_delivered_once_and_only_its_identifier_is_kept() -> None:
    """At PUBLISH, so that a broker that never sends PUBREL fills no memory; a repetition is not delivered."""
    side = BatchedSide(v5=True)
    side.feed([publish(2, 7, b"once") * 2, b"\x62\2\0\7", publish(2, 7, b"again")])
    assert [message[1] for message in side.messages] == [b"once", b"again"]
    assert side.sent() == b"\x50\2\0\7\x50\2\0\7\x70\2\0\7\x50\2\0\7"
    assert [(m.payload, m._topic) for m in side.client._in_messages.values()] == [(b"", b"")]
    side.close()


def test_qos_2_beyond_receive_maximum_is_refused() -> None:
    """The broker ignores the bound that CONNECT gave it (MQTT 5, 3.3.4)."""
    side = BatchedSide(v5=True)
    side.client.receive_maximum = 3
    side.feed([b"".join(publish(2, mid) for mid in (1, 2, 3, 3))])
    assert len(side.messages) == 3
    expect_unexpected(side, publish(2, 4), "more than 3 QoS 2 messages without PUBREL")


def test_qos_2_that_is_acknowledged_by_hand_is_bounded_in_bytes() -> None:
    """It waits for PUBREL with its payload."""
    side = BatchedSide(v5=True, manual_ack=True, limits=LimitSettings(max_packet_size=2_000))
    side.feed([publish(2, 1, bytes(1_500))])
    expect_unexpected(side, publish(2, 2, bytes(1_500)), "2000 bytes of QoS 2 messages")


def test_long_topic_names_are_not_cached() -> None:
    """6,000 topic names of 65 kB took 557 MiB."""
    side = BatchedSide(v5=False)
    for size in (MAX_CACHED_TOPIC_BYTES, MAX_CACHED_TOPIC_BYTES + 1):
        side.feed([packet(0x30, size.to_bytes(2, "big") + b"t" * size)])
    cached = side.client._reader._splitter._topics
    assert [len(raw) for raw in cached] == [MAX_CACHED_TOPIC_BYTES]
    assert MAX_CACHED_BYTES < 4 << 20
    side.close()


@pytest.mark.parametrize("v5", [True, False])
def test_unknown_suback_codes_reach_the_caller(v5: bool) -> None:
    """From 0x80 on they are denials (MQTT 5, 2.4); 3 to 127 have no meaning."""
    side = BatchedSide(v5=v5)
    answers: list[tuple[int, list[int]]] = []
    side.client.on_answer = lambda mid, codes: answers.append((mid, codes))
    properties = b"\0" if v5 else b""
    side.feed([packet(0x90, b"\0\5" + properties + b"\x02\x85\xc1\xff"), packet(0xB0, b"\0\6" + properties)])
    assert answers == [(5, [2, 0x85, 0xC1, 0xFF]), (6, [])]
    expect_unexpected(side, packet(0x90, b"\0\5" + properties + b"\x05"), "SUBACK with the codes")


@pytest.mark.parametrize("v5", [True, False])
def test_qos_2_answered_with_puback_frees_the_window(v5: bool) -> None:
    """RabbitMQ does so: 80 of 100 messages were never sent."""
    side = BatchedSide(v5=v5, limits=LimitSettings(max_inflight=2))
    for _ in range(6):
        side.publish(2)
    for _ in range(3):
        sent = side.sent()
        mids = [sent[at - 2 : at] for at in range(len(sent)) if sent[at:].startswith(b"\0payload"[1 - v5 :])]
        side.feed([packet(0x40, mid) for mid in mids])
    assert [receipt.outcome for receipt in side.receipts] == [Outcome.ACKNOWLEDGED] * 6
    assert not side.client._out_messages
    side.close()


@pytest.mark.parametrize(("first", "code"), [(0x40, 0xC0), (0x70, 0xFF), (0x70, 0x92), (0x50, 0xC0)])
def test_every_failure_of_qos_2_frees_both_windows(first: int, code: int) -> None:
    """PUBACK, PUBREC and PUBCOMP with codes that paho knows or not."""
    side = BatchedSide(v5=True)
    receipt = side.publish(2)
    (mid,) = side.client._out_messages
    side.feed([packet(first, mid.to_bytes(2, "big") + bytes((code,)))])
    assert (receipt.outcome, receipt.code) == (Outcome.DENIED, code)
    assert not side.client._out_messages
    side.close()


def test_an_identifier_without_an_answer_is_not_used_again() -> None:
    """A late answer to the first SUBSCRIBE must not satisfy the second one, after all identifiers were used."""
    side = BatchedSide(v5=False)
    side.client.unanswered[50_000] = None
    assert 50_000 not in {side.client._mid_generate() for _ in range(20_000)}
    side.client.unanswered.update(dict.fromkeys(range(49_152, 65_536)))
    assert side.client._mid_generate() == 50_000, "the oldest one, if all are unanswered"
    side.close()


@pytest.mark.parametrize(
    ("limits", "qos", "retain", "reason"),
    [
        (BrokerLimits(max_qos=0), 1, False, "the broker takes QoS 0 at most"),
        (BrokerLimits(max_qos=1), 2, False, "the broker takes QoS 1 at most"),
        (BrokerLimits(retain=False), 0, True, "the broker keeps no retained messages"),
        (BrokerLimits(max_packet=12), 2, False, "larger than the broker's 12 bytes"),
    ],
)
def test_what_the_broker_does_not_take_is_not_sent(limits: BrokerLimits, qos: int, retain: bool, reason: str) -> None:
    """The receipt says why (MQTT 5, 3.2.2.3)."""
    side = BatchedSide(v5=True)
    side.client.outbox.resume(limits)
    receipt = side.client.outbox.put(b"\0\5topic", b"payload", qos, retain=retain, properties=b"")
    side.client.loop_write()
    assert (receipt.outcome, receipt.reason, side.sent()) == (Outcome.DROPPED, reason, b"")
    assert side.client.outbox.unresolved == 0
    side.close()


def test_a_maximum_packet_size_above_what_paho_decodes_is_legal() -> None:
    """Any four bytes but 0 (MQTT 5, 3.2.2.3.6), wherever the property stands."""
    side = BatchedSide(v5=True)
    before = b"\x26\0\1a\0\1b\x1f\0\2ok\x21\0\5"
    section = before + b"\x27\xff\xff\xff\xff\x24\x01"
    side._connack = packet(0x20, b"\0\0" + encode_length(len(section)) + section)
    side.close()
    side.reconnect()
    outbox = side.client.outbox
    assert (outbox.broker.max_packet, outbox.broker.max_qos, outbox.window) == (268_435_455, 1, 5)
    side.close()


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\0\x80\x80", b"\0\0\5\x27\xff", b"\0\0\7\x1f\xff\xff"])
def test_a_cut_connack_is_left_to_paho(body: bytes) -> None:
    """Clamping reads nothing beyond the packet."""
    packet_body = bytearray(body)
    clamp_packet_size(packet_body)
    assert len(packet_body) in (len(body), len(body) + 3)


@pytest.mark.parametrize(
    ("limits", "topic_filter", "code"),
    [
        (BrokerLimits(), "$share/g/a/#", 0),
        (BrokerLimits(wildcards=False), "a/+", 0xA2),
        (BrokerLimits(wildcards=False), "a/b", 0),
        (BrokerLimits(shared=False), "$share/g/a", 0x9E),
    ],
)
def test_a_filter_that_the_broker_lacks_is_known_before_asking(
    limits: BrokerLimits, topic_filter: str, code: int
) -> None:
    """Wildcard and Shared Subscription Available (MQTT 5, 3.2.2.3.11 and 13)."""
    assert limits.denial(topic_filter) == code
