"""Many connections of one process, driven from one loop: a load generator that costs little itself.

A thread per connection would measure the scheduler. Each connection is the client's `Connection` without its network
thread: the loop reads and writes when a socket is ready.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from mqttkit.addresses import show_address
from mqttkit.bench.histogram import LatencyHistogram
from mqttkit.client import MqttClient
from mqttkit.client.connection_setup import make_connection
from mqttkit.client.failures import lost, refused, unreachable
from mqttkit.client.packets.encoding import encode_name
from mqttkit.client.packets.reason_codes import DENIED
from mqttkit.client.receiving.unexpected import UnexpectedPacket
from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.receipt import Receipt
from mqttkit.client.subscriptions import denial
from mqttkit.client.transport.opener import Opener
from mqttkit.errors import BrokerUnreachable, MqttkitError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

log = logging.getLogger(__name__)

ReceiveHandler = Callable[[int, list[Message]], None]
"""Gets the number of a connection and the messages of one read."""
CONNECTING_AT_A_TIME = 64
"""Connections that wait for CONNACK, without a rate: a listener has a short queue."""
TURN_SECONDS = 0.05
MAINTENANCE_SECONDS = 1.0
"""How often every connection checks its keep alive."""
SUBACK_SECONDS = 60.0


class EagerOpener(Opener):
    """Begins to connect to a known place and does not wait: a slow answer must not delay the other connections."""

    def __init__(self, family: int, place: Any) -> None:
        super().__init__()
        self._family, self._place = family, place

    def _connect(self, address: tuple[str, int]) -> socket.socket:
        opening = socket.socket(self._family, socket.SOCK_STREAM)
        opening.setblocking(False)
        with suppress(BlockingIOError):
            opening.connect(self._place)
        return opening


class FleetMember:
    """One connection of a fleet."""

    def __init__(self, number: int, settings: MqttSettings, client_id: str) -> None:
        self.number = number
        self.accepted = False
        self.ended: MqttkitError | None = None
        """Why the connection is gone."""
        self.since = 0
        """When it should have begun to connect, nanoseconds."""
        self.answer: list[int] | None = None
        """The codes of the SUBACK."""
        self.outbox = Outbox(settings.limits)
        self.connection = make_connection(settings, client_id, will=None, manual_ack=False)
        self.connection.identify(client_id)


class Fleet:
    """Connections to one broker. Use it in one thread, which must call `turn` all the time. A context manager."""

    def __init__(
        self, settings: MqttSettings, *, name: str = "", receive: ReceiveHandler = lambda _n, _m: None
    ) -> None:
        """`name` makes client identifiers unique if the settings give one."""
        self.members: list[FleetMember] = []
        self.connecting = LatencyHistogram()
        """Nanoseconds from the time at which a connection was due to its CONNACK."""
        self.behind = 0.0
        """The longest time that a connection began later than it was due, seconds."""
        self.failure: MqttkitError | None = None
        """Why the first connection that was lost is gone."""
        self._settings = settings
        self._name = name
        self._receive = receive
        self._address = (settings.broker.host, settings.broker.port)
        self._v5 = True
        self._place: tuple[int, Any] | None = None
        """Family and address of the broker's socket; None if connections are opened one by one."""
        self._selector = selectors.DefaultSelector()
        self._dirty: set[FleetMember] = set()
        self._waiting = 0
        self._maintained_at = time.monotonic()
        self._closing = False

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> int:
        """Connections that are gone."""
        return sum(member.ended is not None for member in self.members)

    @property
    def unresolved(self) -> int:
        """Publishes without an outcome."""
        return sum(member.outbox.unresolved for member in self.members)

    # Connecting.

    def connect(self, count: int, stop: Stop, *, rate: float = 0.0) -> None:
        """Connect `count` more clients, `rate` a second; raise the error of the first one that fails.

        The rate is a schedule: `connecting` counts a late start too. Without a rate, as fast as the broker answers.
        """
        if not self.members:
            self._look(stop)
        start, seconds = time.monotonic_ns(), self._settings.client.connect_timeout
        for number in range(count):
            due = start + int(number / rate * 1e9) if rate else 0
            while not stop.is_set and (left := (due - time.monotonic_ns()) / 1e9) > 0:
                self.turn(min(TURN_SECONDS, left))
                self._raise_failure()
            self._await(lambda: self._waiting < CONNECTING_AT_A_TIME or stop.is_set, seconds, "CONNACK")
            if stop.is_set:
                break
            now = time.monotonic_ns()
            self.behind = max(self.behind, (now - due) / 1e9 if rate else 0.0)
            self._open(due or now)
            self.turn(0)
        self._await(lambda: not self._waiting or stop.is_set, seconds, "CONNACK")

    def _look(self, stop: Stop) -> None:
        """Find out which of the broker's hosts and versions works, with an ordinary client."""
        with MqttClient(self._settings, retry=False) as client:
            if not stop.is_set:
                client.connect()
            self._address, self._v5 = client.address, client.protocol_version == 5

    def _open(self, due: int) -> None:
        given = self._settings.client.client_id
        number = len(self.members)
        identifier = f"{given}-{self._name}{number}" if given else f"bench-{self._name}{number}-{id(self):x}"
        member = FleetMember(number, self._settings, identifier)
        connection = member.connection
        connection.attach(member.outbox, self._receiver(member))
        connection.on_connect = lambda _c, _d, _f, code, _p: self._handle_connack(member, code)
        connection.on_refused = lambda code: self._end(member, refused(self._address, code, f"reason code {code}"))
        connection.on_disconnect = lambda _c, _d, _f, code, _p: self._handle_end(member, str(code))
        connection.on_answer = lambda _mid, codes: setattr(member, "answer", codes)
        connection.on_socket_open = lambda _c, _d, opened: self._watch(member, opened)
        connection.on_socket_close = lambda _c, _d, closed: self._unwatch(closed)
        connection.on_socket_register_write = lambda _c, _d, opened: self._want(member, opened, writes=True)
        connection.on_socket_unregister_write = lambda _c, _d, opened: self._want(member, opened, writes=False)
        self.members.append(member)
        member.since = due
        if self._place is not None:
            eager = EagerOpener(*self._place)
            eager.timeout, eager.user_timeout = connection.opener.timeout, connection.opener.user_timeout
            connection.opener = eager
        try:
            connection.open(self._address, v5=self._v5, settings=self._settings.client)
        except Exception as error:  # the resolver, OpenSSL and paho raise many kinds
            raise unreachable(self._address, connection.opener.step, error) from error
        self._waiting += 1
        opener, opened = connection.opener, cast("Any", connection.socket())
        if number == 0 and opened is not None and opener.tls is None and not (opener.websocket_path or opener.source):
            place = opened.getpeername()
            self._place = (opened.family, place) if isinstance(place, tuple) else None

    def _receiver(self, member: FleetMember) -> Callable[[list[Message]], None]:
        receive, number = self._receive, member.number
        return lambda messages: receive(number, messages)

    def _handle_connack(self, member: FleetMember, code: Any) -> None:
        if code.is_failure:
            self._end(member, refused(self._address, code.value, str(code)))
            return
        member.accepted = True
        self._waiting -= 1
        self.connecting.add(time.monotonic_ns() - member.since)

    def _handle_end(self, member: FleetMember, reason: str) -> None:
        self._end(member, lost(self._address, reason))

    def _end(self, member: FleetMember, error: MqttkitError) -> None:
        if member.ended is not None or self._closing:
            return
        member.ended = error
        self.failure = self.failure or error
        if not member.accepted:
            self._waiting -= 1

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _await(self, condition: Callable[[], bool], seconds: float, packet: str) -> None:
        """Turn until the condition holds; raise BrokerUnreachable after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._raise_failure()
            if time.monotonic() > deadline:
                where = show_address(*self._address)
                raise BrokerUnreachable(where, "mqtt", f"no {packet} within {seconds:g} s")
            self.turn(TURN_SECONDS)
        self._raise_failure()

    # Subscribing and publishing.

    def subscribe(self, subscriptions: Sequence[Subscription], stop: Stop) -> None:
        """Subscribe the first connections, one with each; raise SubscriptionDenied for the first denial."""
        chosen = list(zip(self.members, subscriptions, strict=False))  # a run that is stopped has fewer members
        for member, subscription in chosen:
            member.connection.subscribe(subscription.topic_filter, subscription.qos)
        self._await(
            lambda: stop.is_set or all(member.answer is not None for member, _ in chosen), SUBACK_SECONDS, "SUBACK"
        )
        for member, subscription in chosen:
            if member.answer and member.answer[0] >= DENIED:
                raise denial(subscription.topic_filter, member.answer[0])

    def publish(self, number: int, topic: str, payload: bytes, qos: int) -> Receipt:
        """Queue a publish on connection `number`; never blocks."""
        member = self.members[number]
        self._dirty.add(member)
        return member.outbox.put(encode_name(topic), payload, qos, retain=False, properties=b"")

    # The loop.

    def turn(self, timeout: float) -> None:
        """Send what is queued, wait up to `timeout` seconds for the sockets, then read and write once."""
        self._flush()
        for key, events in self._selector.select(timeout):
            member = key.data
            if events & selectors.EVENT_READ:
                self._read(member)
            if events & selectors.EVENT_WRITE:
                self._guard(member, member.connection.loop_write)
        self._flush()
        now = time.monotonic()
        if now - self._maintained_at >= MAINTENANCE_SECONDS:
            self._maintained_at = now
            for member in self.members:
                if member.accepted and member.ended is None:
                    self._guard(member, member.connection.loop_misc)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for member in dirty:
            self._guard(member, member.connection.loop_write)

    def _read(self, member: FleetMember) -> None:
        connection = member.connection
        pending = 1
        while pending and member.ended is None:
            self._guard(member, connection.loop_read)
            pending = getattr(connection.socket(), "pending", int)()
        if member.ended is None and connection.want_write():
            self._guard(member, connection.loop_write)

    def _guard(self, member: FleetMember, work: Callable[[], object]) -> None:
        """Read or write; an unexpected packet ends the connection."""
        try:
            work()
        except Exception as error:  # paho raises many kinds
            foreseen = isinstance(error, UnexpectedPacket)
            if not foreseen:
                log.debug("an unexpected packet ended connection %d", member.number, exc_info=error)
            member.connection.abort()
            self._handle_end(member, f"unexpected packet: {error if foreseen else repr(error)}")

    def _watch(self, member: FleetMember, opened: Any) -> None:
        self._selector.register(opened, selectors.EVENT_READ, member)

    def _want(self, member: FleetMember, opened: Any, *, writes: bool) -> None:
        self._selector.modify(opened, selectors.EVENT_READ | (selectors.EVENT_WRITE if writes else 0), member)

    def _unwatch(self, closed: Any) -> None:
        with suppress(KeyError):
            self._selector.unregister(closed)

    def close(self) -> None:
        """Disconnect every client."""
        self._closing = True
        for member in self.members:
            if member.accepted and member.ended is None:
                member.connection.disconnect()
                member.connection.loop_write()
            member.connection.abort()
        self._selector.close()
