"""Framing, rules and faults, without sockets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.errors import NotMqtt, UsageError
from mqttkit.proxy.framing import TYPES, describe, packets
from mqttkit.proxy.link import Cut, Effect, Link, Reply, Send
from mqttkit.proxy.rules import FaultRule, parse_rule

CONNECT_5 = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"
CONNECT_311 = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"


def publish(number: int) -> bytes:
    """Return a PUBLISH of QoS 1 in MQTT 3.1.1."""
    body = b"\x00\x01a" + number.to_bytes(2, "big") + b"payload"
    return bytes((0x32, len(body))) + body


def puback(number: int) -> bytes:
    """Return a PUBACK."""
    return b"\x40\x02" + number.to_bytes(2, "big")


def fed(link: Link, data: bytes, *, from_client: bool = True) -> tuple[bytes, list[Effect]]:
    """Return what the other side gets, and the other effects."""
    effects = link.feed(data, from_client=from_client)
    sent = b"".join(effect.data for effect in effects if isinstance(effect, Send))
    return sent, [effect for effect in effects if not isinstance(effect, Send)]


def link(*rules: str, seed: int = 0) -> Link:
    """Return a link with these rules."""
    return Link([parse_rule(rule) for rule in rules], random.Random(seed))


@given(st.lists(st.binary(min_size=0, max_size=300), max_size=5), st.data())
def test_packets_are_found_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    """Nothing is lost, added or changed without rules."""
    stream = b""
    for body in bodies:
        length = len(body)
        size = bytes((length,)) if length < 128 else bytes((length % 128 | 128, length // 128))
        stream += b"\x30" + size + body
    place = data.draw(st.integers(0, len(stream)))
    whole = link("drop PUBACK")
    first, _ = fed(whole, stream[:place])
    second, _ = fed(whole, stream[place:])
    assert first + second == stream
    assert whole.packets == len(bodies)


@given(st.binary(max_size=200))
def test_any_bytes_are_forwarded_held_or_end_the_connection(stream: bytes) -> None:
    """Never another exception, and never bytes that were not sent."""
    seen: list[str] = []
    watched = Link([], random.Random(0), lambda _client, text, _action: seen.append(text))
    sent, others = fed(watched, stream)
    assert stream.startswith(sent)
    assert all(isinstance(other, Cut) for other in others)
    assert all(text.isprintable() for text in seen)


def test_drop_takes_one_packet_out() -> None:
    """The third PUBACK, and only that one; packets of other types are not counted."""
    stream = b"".join((puback(1), publish(9), puback(2), puback(3), puback(4)))
    assert fed(link("drop PUBACK 3"), stream)[0] == b"".join((puback(1), publish(9), puback(2), puback(4)))


def test_duplicate_sends_each_tenth_twice() -> None:
    """20 packets are 22."""
    stream = b"".join(publish(number) for number in range(20))
    sent, _ = fed(link("duplicate PUBLISH every 10"), stream)
    assert len(sent) == 22 * len(publish(0))
    assert sent.count(publish(9)) == 2


def test_a_rule_may_count_one_direction_only() -> None:
    """From the client, or from the broker."""
    one = link("drop PUBLISH 1 from broker")
    assert fed(one, publish(1))[0] == publish(1)
    assert fed(one, publish(2), from_client=False)[0] == b""


def test_delay_varies_within_its_spread_and_repeats_with_its_seed() -> None:
    """200 ms, 50 to either side."""

    def delays(seed: int) -> list[float]:
        effects = link("delay PUBLISH 200ms±50", seed=seed).feed(publish(1) * 50, from_client=True)
        return [effect.delay for effect in effects if isinstance(effect, Send)]

    assert delays(1) == delays(1) != delays(2)
    assert min(delays(1)) >= 0.15
    assert max(delays(1)) <= 0.25
    assert len(set(delays(1))) > 10


def test_cut_sends_half_a_packet_and_ends() -> None:
    """What came before it is sent whole, what comes behind it is not."""
    sent, others = fed(link("cut PUBLISH 2"), publish(1) + publish(2) + publish(3))
    assert sent == publish(1) + publish(2)[: len(publish(2)) // 2]
    assert others == [Cut("cut in the middle of a PUBLISH")]


@pytest.mark.parametrize(
    ("connect", "connack"), [(CONNECT_5, b"\x20\x03\x00\x97\x00"), (CONNECT_311, b"\x20\x02\x00\x97")]
)
def test_answer_refuses_in_the_version_of_the_client(connect: bytes, connack: bytes) -> None:
    """The broker sees nothing."""
    sent, others = fed(link("answer CONNECT 0x97"), connect)
    assert sent == b""
    assert others == [Reply(connack), Cut("answered CONNECT with 0x97")]


def test_a_share_is_random_but_seeded() -> None:
    """About half."""
    stream = publish(1) * 400
    sent, _ = fed(link("drop PUBLISH 50%", seed=3), stream)
    again, _ = fed(link("drop PUBLISH 50%", seed=3), stream)
    assert sent == again
    assert 120 * len(publish(1)) < len(sent) < 280 * len(publish(1))


@pytest.mark.parametrize("stream", [b"\x00\x00", b"\x30\xff\xff\xff\xff\x01"])
def test_what_is_not_mqtt_ends_the_connection(stream: bytes) -> None:
    """Type 0, and a length of five bytes."""
    with pytest.raises(NotMqtt):
        list(packets(stream))
    assert isinstance(fed(link(), stream)[1][0], Cut)


@pytest.mark.parametrize(
    ("data", "version", "text"),
    [
        (publish(7), 4, "PUBLISH 'a' qos 1 id 7, 7 bytes 'payload'"),
        (b"\x31\x05\x00\x01aXY", 4, "PUBLISH 'a' qos 0 retain, 2 bytes 'XY'"),
        (b"\x30\x08\x00\x01a\x02\x01\x01\x1b\x5b", 5, "PUBLISH 'a' qos 0, 2 bytes '\\x1b['"),
        (b"\x20\x03\x01\x87\x00", 5, "CONNACK code 0x87 session_present 1"),
        (b"\x40\x03\x00\x05\x10", 5, "PUBACK id 5 code 0x10"),
        (b"\x82\x06\x00\x02\x00\x01a\x00", 4, "SUBSCRIBE id 2"),
        (b"\xe0\x01\x8e", 5, "DISCONNECT code 0x8e"),
        (b"\xc0\x00", 5, "PINGREQ"),
    ],
)
def test_packets_as_text(data: bytes, version: int, text: str) -> None:
    """Printable, whatever the payload is."""
    (packet,) = packets(data)
    assert describe(data, packet, version=version) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("drop PUBACK 3", FaultRule("drop", TYPES["PUBACK"], nth=3)),
        ("duplicate publish every 10", FaultRule("duplicate", TYPES["PUBLISH"], every=10)),
        ("delay PUBLISH 1.5s", FaultRule("delay", TYPES["PUBLISH"], seconds=1.5)),
        ("delay PUBLISH 200ms±50 from client", FaultRule("delay", 3, from_client=True, seconds=0.2, spread=0.05)),
        ("drop PINGRESP 10%", FaultRule("drop", TYPES["PINGRESP"], share=0.1)),
        ("answer CONNECT 0x97 2", FaultRule("answer", TYPES["CONNECT"], code=0x97, nth=2)),
    ],
)
def test_rules_are_read(text: str, rule: FaultRule) -> None:
    """ACTION PACKET, then what limits it."""
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "drop", "drop PUBLISHED", "lose PUBLISH", "drop PUBLISH 0", "drop PUBLISH -1", "drop PUBLISH x"),
        *("drop PUBLISH every", "drop PUBLISH 0%", "drop PUBLISH 101%", "delay PUBLISH", "delay PUBLISH 5"),
        *("answer CONNECT", "answer PUBLISH 0x97", "answer CONNECT 0x00", "answer CONNECT 0x100"),
        *("drop PUBLISH from me", "drop PUBLISH from", "delay PUBLISH 5s±x"),
    ],
)
def test_what_is_not_a_rule_is_a_usage_error(text: str) -> None:
    """With examples."""
    with pytest.raises(UsageError, match="Examples: drop PUBACK 3"):
        parse_rule(text)
