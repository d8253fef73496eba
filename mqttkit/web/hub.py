"""From one tree to every viewer: batches of messages ten times a second, encoded once for all of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from mqttkit.live.tree import TopicNode, TopicTree
from mqttkit.messages import Message
from mqttkit.web.encoding import Part, TopicState, batch_event, event, snapshot_events
from mqttkit.web.viewer import Viewer

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.1
SECOND = 1.0
PENDING_BYTES = 16 * 1024 * 1024
"""Memory of the messages that wait for the next batch; beyond it they are dropped and every viewer gets a snapshot."""
LEAST_RATE = 0.005
"""Messages per second below which a topic's rate is sent as 0."""
MESSAGE_BYTES = 200
"""Memory of a message without its payload."""


class TooManyViewers(Exception):
    """The page is open as often as is allowed."""


Audience = list[tuple[Viewer, int]]
"""Viewers, with the number of the snapshot that each of them has."""


@dataclass
class _Batch:
    """Messages between two moments, and who has to get them."""

    parts: list[Part]
    fresh: list[tuple[int, str]]
    """Number and name of each topic that has none of its messages in an earlier batch."""
    audience: Audience
    numbers: dict[str, int]

    @property
    def size(self) -> int:
        return sum(len(part.messages) for part in self.parts)


class Hub:
    """Sends what a tree receives to viewers. Entering it starts a thread.

    `take` must be called under the tree's lock. Any thread may call the other methods.
    """

    def __init__(
        self, tree: TopicTree, *, max_viewers: int = 8, each_second: Callable[[], dict[str, object]] = dict
    ) -> None:
        """`each_second` returns what the page shows besides topics; the hub's thread calls it."""
        self.tree = tree
        self.max_viewers = max_viewers
        self.offset = time.time() - time.monotonic()
        """What turns the monotonic clock into seconds since the epoch."""
        self._each_second = each_second
        self._viewers: list[Viewer] = []
        self._pending: list[Part] = []
        self._pending_bytes = 0
        self._ready: list[_Batch] = []
        self._numbers: dict[str, int] = {}
        self._topics: list[str] = []
        self._dropped = 0
        self._latest = b""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="web-batches", daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        with self.tree.lock:
            for viewer in self._viewers:
                viewer.close()

    @property
    def viewers(self) -> int:
        """Pages that are open."""
        return len(self._viewers)

    def take(self, messages: list[Message], when: float) -> None:
        """Keep messages for the next batch."""
        if not self._viewers:
            return
        self._pending.append(Part(when, messages))
        self._pending_bytes += sum([len(message[1]) for message in messages]) + MESSAGE_BYTES * len(messages)
        if self._pending_bytes > PENDING_BYTES:
            self._start_again()

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Add a viewer for as long as the context is open; raise TooManyViewers."""
        viewer = Viewer()
        with self.tree.lock:
            if len(self._viewers) >= self.max_viewers:
                raise TooManyViewers
            self._close_batch()
            self._viewers.append(viewer)
        try:
            yield viewer
        finally:
            with self.tree.lock:
                self._viewers.remove(viewer)
                if not self._viewers:
                    self._pending, self._pending_bytes = [], 0

    def snapshot(self, viewer: Viewer) -> Iterator[bytes]:
        """Yield every topic as events; the viewer then gets what arrives later."""
        with self.tree.lock:
            self._close_batch()
            states = [
                TopicState(self._number(topic), topic, node.message, node.count, node.rate, node.when, node.retained)
                for topic, node in self.tree.topics()
                if node.message is not None
            ]
            lost = viewer.lost
            viewer.begin()
        yield from snapshot_events(states, lost=lost, offset=self.offset)
        if self._latest:
            yield self._latest

    def find(self, number: int) -> tuple[str, TopicNode] | None:
        """Return the topic with this number."""
        with self.tree.lock:
            topic = self._topics[number] if 0 <= number < len(self._topics) else ""
            node = self.tree.find(topic)
            return None if node is None else (topic, node)

    def send_batches(self) -> None:
        """Encode the messages that wait and give them to the viewers."""
        with self.tree.lock:
            self._close_batch()
            ready, self._ready = self._ready, []
        for batch in ready:
            encoded = batch_event(batch.parts, batch.fresh, batch.numbers, self.offset)
            _put(batch.audience, encoded, batch.size)

    def send_second(self) -> None:
        """Update the rates and send them, with what `each_second` returns."""
        self.tree.tick(time.monotonic())
        with self.tree.lock:
            self._close_batch()
            rates: list[float] = []
            for topic, node in self.tree.topics() if self._viewers else ():
                if node.rate >= LEAST_RATE and topic in self._numbers:
                    rates += (self._numbers[topic], round(node.rate, 2))
            audience = self._audience()
        self.send_batches()
        self._latest = event("second", {**self._each_second(), "viewers": self.viewers})
        _put(audience, event("rates", rates) + self._latest, 0)

    # --- inside, under the tree's lock --------------------------------------------------------------------

    def _close_batch(self) -> None:
        """End the batch that is being collected: those who view now get it."""
        if self.tree.dropped.topics != self._dropped:
            self._start_again()
        if not self._pending:
            return
        fresh = []
        for part in self._pending:
            for message in part.messages:
                if message[0] not in self._numbers:
                    fresh.append((self._number(message[0]), message[0]))
        self._ready.append(_Batch(self._pending, fresh, self._audience(), self._numbers))
        self._pending, self._pending_bytes = [], 0

    def _audience(self) -> Audience:
        return [(viewer, viewer.generation) for viewer in self._viewers if viewer.generation]

    def _number(self, topic: str) -> int:
        number = self._numbers.get(topic)
        if number is None:
            number = self._numbers[topic] = len(self._topics)
            self._topics.append(topic)
        return number

    def _start_again(self) -> None:
        """Drop the waiting messages, forget the topics' numbers, and let each viewer begin with a snapshot."""
        waiting = sum(len(part.messages) for part in self._pending)
        self._pending, self._pending_bytes, self._ready = [], 0, []
        self._numbers, self._topics = {}, []
        self._dropped = self.tree.dropped.topics
        for viewer in self._viewers:
            viewer.drop_all(waiting)

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(BATCH_SECONDS):
            try:
                self.send_batches()
                if time.monotonic() >= due:
                    due = time.monotonic() + SECOND
                    self.send_second()
            except Exception:
                log.exception("the page did not get an update")


def _put(audience: Audience, encoded: bytes, messages: int) -> None:
    for viewer, generation in audience:
        viewer.put(encoded, messages, generation=generation)
