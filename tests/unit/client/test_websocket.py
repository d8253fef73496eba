"""WebSocket frames: whatever the cuts, the payload arrives; what we send is what RFC 6455 says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.client.transport.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, FrameReader, make_frame


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Return an unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([BINARY, CONTINUATION]), st.binary(max_size=200) | st.just(bytes(70_000))),
        st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 1_000_000), max_size=10))
def test_payload_arrives_whatever_the_cuts(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Payload in order, pings noted, pongs ignored."""
    data = b"".join(server_frame(opcode, payload) for opcode, payload in frames)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = FrameReader()
    payload = b"".join(reader.feed(data[a:b]) for a, b in itertools.pairwise(places))
    assert payload == b"".join(content for opcode, content in frames if opcode in (BINARY, CONTINUATION))
    assert reader.take_controls() == [frame for frame in frames if frame[0] == PING]
    assert not reader.closed


def test_nothing_passes_after_a_close_frame() -> None:
    """What was before it does."""
    reader = FrameReader()
    frames = server_frame(BINARY, b"last") + server_frame(CLOSE, b"\x03\xe8") + server_frame(BINARY, b"never")
    assert reader.feed(frames) == b"last"
    assert reader.closed
    assert reader.take_controls() == [(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("head", [b"\x82\x81", b"\x81\x01", b"\xc2\x01", b"\x83\x01"])
def test_what_no_server_may_send_ends_the_connection(head: bytes) -> None:
    """Masked, text, reserved bit, reserved opcode."""
    with pytest.raises(ConnectionError):
        FrameReader().feed(head + b"xxxxxxxx")


@given(st.binary(max_size=300) | st.just(bytes(range(256)) * 300))
def test_our_frames_are_final_and_masked(payload: bytes) -> None:
    """Unmasked, a frame gives the payload back."""
    frame = make_frame(BINARY, payload)
    assert frame[0] == 0x82
    size = {126: 4, 127: 10}.get(frame[1] & 127, 2)
    length = frame[1] & 127 if size == 2 else int.from_bytes(frame[2:size], "big")
    key, masked = frame[size : size + 4], frame[size + 4 :]
    assert frame[1] & 0x80
    assert length == len(payload) == len(masked)
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(masked)) == payload
