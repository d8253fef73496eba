"""Feed mutated packet streams to the client: `make fuzz`. Seeded, so that each case can be run again.

No case may raise anything but UnexpectedPacket, leave the client unable to connect again, or make memory grow.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import sys
import traceback

from mqttkit.client.receiving.unexpected import UnexpectedPacket
from mqttkit.messages import Outcome
from tests.support.packets import packet
from tests.unit.client.harness import BatchedSide

MAX_GROWTH = 32 * 1024 * 1024
"""Bytes that the process may grow after the first tenth of the cases."""


class Case:
    """One stream: valid packets, some of them mutated, cut into chunks."""

    def __init__(self, number: int, *, v5: bool) -> None:
        self._random = random.Random(number * 2 + v5)  # reproducible on purpose
        self._v5 = v5

    def chunks(self) -> list[bytes]:
        """Return the stream as the broker sends it."""
        chance = self._random
        data = bytearray(b"".join(self._packet() for _ in range(chance.randint(1, 8))))
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            self._mutate(data)
        cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 3)))
        return [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]

    def _mutate(self, data: bytearray) -> None:
        chance, place = self._random, self._random.randint(0, max(0, len(data) - 1))
        kind = chance.randint(0, 3)
        if kind == 0 and data:
            data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randint(0, 255)))
        elif kind == 1:
            del data[place : place + chance.randint(1, 4)]
        elif kind == 2:
            data[place:place] = chance.randbytes(chance.randint(1, 4))
        else:
            data[place:place] = data[: chance.randint(0, len(data))]

    def _packet(self) -> bytes:
        chance = self._random
        mid = chance.choice((1, 2, 3, 49_152, 49_153, chance.randint(0, 65_535))).to_bytes(2, "big")
        kind = chance.choice((3,) * 12 + (4,) * 6 + (5, 6, 7, 9, 11, 13) * 3 + (2, 14, 15))
        if kind == 3:
            return self._publish(mid)
        if kind == 13:
            return b"\xd0\0"
        properties = chance.choice((b"\0", b"\0", b"\x05\x1f\0\2no", b"\x07\x26\0\1a\0\1b")) if self._v5 else b""
        code = bytes((chance.choice((0, 1, 2, 0x10, 0x80, 0x87, 0x92, 0x9B, 0xB9, 0xC0, 0xFF)),))
        if kind in (9, 11):
            return packet(kind << 4, mid + properties + code * chance.choice((0, 1, 1, 2, 3)))
        if kind in (2, 14, 15):
            return packet(kind << 4, (b"\0" if kind == 2 else b"") + code + properties)
        return packet(kind << 4 | (2 if kind == 6 else 0), mid + chance.choice((b"", code, code + properties)))

    def _publish(self, mid: bytes) -> bytes:
        chance = self._random
        qos = chance.randint(0, 3)
        topic = chance.choice((b"t", b"a/b", b"", b"\xff", "ü/\U0001f600".encode(), b"x" * 700))
        sections = (b"\0", b"\0", b"\2\1\1", b"\3\x23\0\1", b"\5\2\0\0\0\x3c", b"\x0e" + b"\x26\0\1a\0\1b" * 2)
        section = chance.choice(sections) if self._v5 else b""
        payload = chance.randbytes(chance.choice((0, 1, 20, 300)))
        first = 0x30 | qos << 1 | chance.choice((0, 1, 8))
        return packet(first, len(topic).to_bytes(2, "big") + topic + (mid if qos else b"") + section + payload)


def run_case(number: int, *, v5: bool) -> str:
    """Run one case; return how it ended: ok, closed or unexpected. Raises what a network thread would log."""
    side = BatchedSide(v5=v5)
    side.client.on_answer = lambda _mid, _codes: None
    side.client.on_refused = lambda _code: None
    try:
        for qos in (0, 1, 1, 2):
            side.publish(qos)
        side.client.subscribe("t")
        end = "ok"
        try:
            for chunk in Case(number, v5=v5).chunks():
                if side.client._sock is None:
                    break
                side.far.setblocking(True)
                side.far.sendall(chunk)
                side.far.setblocking(False)
                side.pump(2)
        except UnexpectedPacket:
            end = "unexpected"
        end = "closed" if end == "ok" and side.client._sock is None else end
        _prove_alive(side)
        return end
    finally:
        side.close()


def _prove_alive(side: BatchedSide) -> None:
    """Connect again, publish and receive."""
    side.close()
    side.client.outbox.suspend()
    side.client.outbox.lose("gone", keep_acknowledged=False)
    side.client.drop_out_messages()
    side.reconnect()
    side.sent()
    receipt = side.publish(1)
    (mid,) = side.client.outbox.flights
    side.feed([b"\x40\2" + mid.to_bytes(2, "big")])
    assert receipt.outcome is Outcome.ACKNOWLEDGED, "the client did not recover"


def main() -> int:
    """Run the cases; print the totals, and each failure with its case number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=30_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    failures = 0
    for v5 in (False, True):
        ends: collections.Counter[str] = collections.Counter()
        settled = 0
        for number in range(options.first, options.first + options.cases):
            try:
                ends[run_case(number, v5=v5)] += 1
            except Exception:  # counted and printed
                ends["failed"] += 1
                print(f"case {number}, MQTT {'5' if v5 else '3.1.1'}:\n{traceback.format_exc(limit=-4)}")
            if number == options.first + options.cases // 10:
                settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled)
        failures += ends["failed"] + (grown > MAX_GROWTH)
        print(f"MQTT {'5' if v5 else '3.1.1'}: {dict(ends)}, grew by {grown / 1e6:.1f} MB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
