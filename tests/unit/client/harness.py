"""A paho client and a batched one on socket pairs, fed the same bytes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from mqttkit.client.connection import Connection
from mqttkit.client.packets.properties import from_paho
from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.receipt import Receipt
from mqttkit.messages import Message, Outcome
from mqttkit.settings import LimitSettings

CONNACK_V3 = b"\x20\x02\x00\x00"
CONNACK_V5 = b"\x20\x03\x00\x00\x00"
LIMITS = LimitSettings(max_inflight=1_000)


class Side:
    """One client, the broker's end of its socket, and what the client did."""

    def __init__(self, make: Callable[..., Any], *, v5: bool, manual_ack: bool = False) -> None:
        version = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        self.client = make(CallbackAPIVersion.VERSION2, client_id="x", protocol=version, manual_ack=manual_ack)
        self.client._create_socket = lambda: self.near
        self.client.suppress_exceptions = False
        self.messages: list[tuple[Any, ...]] = []
        self.ended: list[int] = []
        self.answered: list[tuple[str, Any]] = []
        self.client.on_disconnect = lambda _c, _d, _f, code, _p: self.ended.append(code.value)
        self.client.on_subscribe = lambda _c, _d, mid, codes, _p: self.answered.append(("sub", (mid, str(codes))))
        self.client.on_unsubscribe = lambda _c, _d, mid, codes, _p: self.answered.append(("un", (mid, str(codes))))
        self.client.max_inflight_messages_set(LIMITS.max_inflight)
        self.client.connect_async("localhost", 1883, keepalive=60)
        self._connack = CONNACK_V5 if v5 else CONNACK_V3
        self.reconnect()
        self.sent()

    def reconnect(self) -> None:
        """Connect, with a new socket pair."""
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.client.reconnect()
        self.feed([self._connack])

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Let the broker send chunks, the client reading and writing after each."""
        for chunk in chunks:
            if self.client._sock is None:
                return
            self.far.setblocking(True)
            self.far.sendall(chunk)
            self.far.setblocking(False)
            self.pump(len(chunk))

    def pump(self, rounds: int = 1) -> None:
        """Read and write; plain paho reads a packet at a time."""
        for _ in range(rounds + 1):
            if self.client._sock is None:
                return
            self.client.loop_read()
            self.client.loop_write()

    def sent(self) -> bytes:
        """Return what the client sent since the last call."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(ConnectionResetError):  # says once that the client left bytes unread
                    chunk = self.far.recv(1 << 20)
                    data += chunk
                    if not chunk:
                        break
        return data

    def close(self) -> None:
        """Close both ends."""
        self.client._sock_close()
        self.near.close()
        self.far.close()


class PlainSide(Side):
    """paho as it is."""

    def __init__(self, make: Callable[..., Any] = paho.Client, *, v5: bool, manual_ack: bool = False) -> None:
        self.confused = False
        super().__init__(make, v5=v5, manual_ack=manual_ack)
        self._manual_ack = manual_ack
        self._handle_publish = self.client._handle_publish
        self.client._handle_publish = self._record_qos2
        self.client._handle_pubrec = self._watch(self.client._handle_pubrec)
        self.client._handle_pubackcomp = self._watch(self.client._handle_pubackcomp)
        self.client.on_message = self._message
        self.client.on_publish = lambda _c, _d, mid, code, _p: self.answered.append(("pub", (mid, code.value)))

    def _record_qos2(self) -> Any:
        """Record a QoS 2 message at PUBLISH, where our client delivers it; paho delivers at PUBREL."""
        before = set(self.client._in_messages)
        code = self._handle_publish()
        if not self._manual_ack:
            for mid in self.client._in_messages.keys() - before:
                self._record(self.client._in_messages[mid])
        return code

    def _message(self, _client: object, _data: object, received: Any) -> None:
        if received.qos < 2 or self._manual_ack:
            self._record(received)

    def _record(self, received: Any) -> None:
        properties = from_paho(received.properties)
        flags = (received.qos, bool(received.retain), bool(received.dup), received.mid)
        self.messages.append((received._topic, bytes(received.payload), *flags, properties))

    def _watch(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Note a PUBREC or PUBCOMP where PUBACK was due: paho goes along with it, and no broker sends that."""

        def watched(*arguments: str) -> Any:
            packet = self.client._in_packet["packet"]
            waiting = self.client._out_messages.get(int.from_bytes(packet[:2], "big"))
            self.confused |= waiting is not None and waiting.qos == 1 and arguments != ("PUBACK",)
            return handler(*arguments)

        return watched

    def publish(self, qos: int) -> None:
        """Publish something."""
        self.client.publish("topic", b"payload", qos)


class BatchedSide(Side):
    """The client under test."""

    def __init__(self, *, v5: bool, manual_ack: bool = False, limits: LimitSettings = LIMITS) -> None:
        self.receipts: list[Receipt] = []
        self.batches: list[int] = []
        super().__init__(lambda *a, **k: self._make(limits, *a, **k), v5=v5, manual_ack=manual_ack)

    def _make(self, limits: LimitSettings, *arguments: Any, **options: Any) -> Connection:
        client = Connection(*arguments, **options)
        client.attach(Outbox(limits), self._batch)
        return client

    def _batch(self, messages: list[Message]) -> None:
        self.batches.append(len(messages))
        self.messages += [(m.topic_bytes, *m[1:7]) for m in messages]

    def publish(self, qos: int, payload: bytes = b"payload") -> Receipt:
        """Publish something."""
        receipt = self.client.outbox.put(b"\0\5topic", payload, qos, retain=False, properties=b"")
        self.receipts.append(receipt)
        if self.client._sock is not None:
            self.client.loop_write()
        return receipt

    def acknowledged(self) -> set[tuple[int, int]]:
        """Return index (from 1) and code of each publish that was acknowledged or denied."""
        done = (Outcome.ACKNOWLEDGED, Outcome.DENIED)
        return {(index, r.code) for index, r in enumerate(self.receipts, 1) if r.outcome in done and r.qos}
