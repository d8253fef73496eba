"""The proxy's sockets: one event loop serves every connection.

    with Proxy(("127.0.0.1", 1883), rules=[parse_rule("drop PUBACK 3")]) as proxy:
        client = mqttkit.connect(f"mqtt://127.0.0.1:{proxy.port}")

Delays keep the order of packets: a delayed packet holds up those behind it, as on a slow line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType

from mqttkit.errors import LifecycleError
from mqttkit.proxy.link import Cut, Link, Reply, Send
from mqttkit.proxy.rules import FaultRule

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
START_SECONDS = 10.0
MAX_WAITING = 16 * 1024 * 1024
"""Bytes that may wait for the other side before the proxy stops reading."""


@dataclass
class ProxyTotals:
    """What a proxy has done."""

    connections: int = 0
    packets: int = 0
    bytes: int = 0
    cuts: int = 0
    """Connections that a rule ended."""
    unreachable: int = 0
    """Connections for which the broker could not be reached."""


class _Side(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(self, pair: _Pair, *, is_client: bool) -> None:
        self._pair = pair
        self._is_client = is_client
        self.transport: asyncio.Transport | None = None
        self._due = 0.0
        self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=MAX_WAITING)
        self.transport = transport
        self._pair.made(self)

    def data_received(self, data: bytes) -> None:
        self._pair.received(data, from_client=self._is_client)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pair.end()

    def pause_writing(self) -> None:
        self._pair.pause_other(self, paused=True)

    def resume_writing(self) -> None:
        self._pair.pause_other(self, paused=False)

    def send(self, data: bytes, delay: float, rate: float | None) -> None:
        """Write now, or when it is due: in order."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = max(now + delay, self._due)
        if rate is not None:
            due = max(due, self._due) + len(data) / rate
        self._due = due
        if due <= now and not self._waiting:
            self._write(data)
            return
        self._waiting += len(data)
        if self._waiting > MAX_WAITING:
            self._pair.pause_other(self, paused=True)
        loop.call_at(due, self._write_late, data)

    def _write_late(self, data: bytes) -> None:
        self._waiting -= len(data)
        if self._waiting <= MAX_WAITING // 2:
            self._pair.pause_other(self, paused=False)
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class _Pair:
    """A client's connection and the one to the broker."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.link = proxy.new_link()
        self.client = _Side(self, is_client=True)
        self.broker = _Side(self, is_client=False)
        self._early = b""
        self.silent = False

    def made(self, side: _Side) -> None:
        """Connect to the broker once the client is there."""
        if side is self.client:
            self._proxy.pairs.add(self)
            self._proxy.totals.connections += 1
            self._proxy.spawn(self._connect())
        elif self._early:
            early, self._early = self._early, b""
            self.received(early, from_client=True)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            connecting = loop.create_connection(lambda: self.broker, *self._proxy.target)
            await asyncio.wait_for(connecting, CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            log.warning("cannot reach the broker %s:%d: %s", *self._proxy.target, error)
            self._proxy.totals.unreachable += 1
            self.end()

    def received(self, data: bytes, *, from_client: bool) -> None:
        """Pass data through the rules to the other side."""
        if self.silent:
            return
        if self.broker.transport is None:
            self._early += data
            return
        self._proxy.totals.bytes += len(data)
        before = self.link.packets
        near, far = (self.client, self.broker) if from_client else (self.broker, self.client)
        for effect in self.link.feed(data, from_client=from_client):
            if isinstance(effect, Send):
                far.send(effect.data, effect.delay, self._proxy.rate)
            elif isinstance(effect, Reply):
                near.send(effect.data, 0.0, None)
            elif isinstance(effect, Cut):
                log.info("connection ended: %s", effect.reason)
                self._proxy.totals.cuts += 1
                self.end()
        self._proxy.totals.packets += self.link.packets - before

    def pause_other(self, side: _Side, *, paused: bool) -> None:
        """Stop or resume reading from the side whose data `side` cannot take."""
        other = self.broker if side is self.client else self.client
        if other.transport is not None and not other.transport.is_closing():
            with contextlib.suppress(RuntimeError):  # it is paused, or reading, already
                if paused:
                    other.transport.pause_reading()
                else:
                    other.transport.resume_reading()

    def end(self) -> None:
        """Close both sockets once what was written is sent."""
        for side in (self.client, self.broker):
            if side.transport is not None:
                side.transport.close()
        self._proxy.pairs.discard(self)


class Proxy:
    """Forwards connections to a broker, with faults. A context manager; `port` is where it listens. Any thread."""

    def __init__(
        self,
        target: tuple[str, int],
        *,
        rules: Sequence[FaultRule] = (),
        seed: int = 0,
        rate: float | None = None,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        on_packet: Callable[[bool, str, str], None] | None = None,
    ) -> None:
        """Set up;

        `rate` is in bytes a second for each direction, `on_packet` gets each packet as text (see `link.Log`).
        """
        self.target = target
        self.rules = list(rules)
        self.rate = rate
        self.totals = ProxyTotals()
        self.pairs: set[_Pair] = set()
        self.port = 0
        self._chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self._listen = listen
        self._on_packet = on_packet
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="mqttkit-proxy", daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._failure is not None:
            reason = self._failure.strerror if self._failure is not None else "the event loop did not start"
            raise LifecycleError(f"the proxy cannot listen on {self._listen[0]}:{self._listen[1]}: {reason}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)

    def cut(self) -> None:
        """End every connection now."""

        def end_all() -> None:
            for pair in list(self.pairs):
                pair.end()

        self._loop.call_soon_threadsafe(end_all)

    def silence(self) -> None:
        """Forward nothing more on the connections there are, and close none: half-open, as after a power cut."""

        def fall_silent() -> None:
            for pair in self.pairs:
                pair.silent = True

        self._loop.call_soon_threadsafe(fall_silent)

    def new_link(self) -> Link:
        """Return the state of a new connection; rules count over all connections."""
        return Link(self.rules, self._chance, self._on_packet)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the loop."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._failure = error
            self._ready.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await self._loop.create_server(lambda: _Pair(self).client, *self._listen)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for pair in list(self.pairs):
            pair.end()
        deadline = time.monotonic() + 1.0
        while self._tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
