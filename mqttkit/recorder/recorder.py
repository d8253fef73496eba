"""Record what a broker sends, without ever slowing it down.

    with Recorder(settings, ["site/#"], RecorderOptions(path=Path("site.jsonl.zst"))) as recorder:
        recorder.run(stop)

The network thread puts batches into a queue that is bounded in bytes. The caller's thread compresses and writes. If
the queue is full, the recorder drops messages, counts them, and writes a gap into the file.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from mqttkit.addresses import show_address
from mqttkit.client import ConnectionState, MqttClient
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, MqttkitError, SubscriptionDenied
from mqttkit.messages import Message, Subscription
from mqttkit.recorder.lines import Gap, Header, gap_line, header_line, line_formatter
from mqttkit.recorder.recording import SUFFIX
from mqttkit.recorder.seekable import SeekableWriter
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop
from mqttkit.subscriber import ReadOptions, Subscriber

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""A killed recorder loses at most the messages since its last flush."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Payload and topic bytes that may wait for the writer."""
MESSAGE_BYTES = 200
"""Bytes that a waiting message takes in addition to its topic and payload."""


@dataclass(frozen=True, kw_only=True)
class RecorderOptions:
    """Where a recording goes, and when it ends."""

    path: Path
    """File to create. The later files of a rotated recording are named NAME.0002.jsonl.zst and so on."""
    qos: int = 2
    """QoS of the subscriptions: 2 receives every message at the QoS it was published with."""
    max_bytes: int | None = None
    """Start a new file when this one has reached this size."""
    max_seconds: float | None = None
    """Start a new file after this time."""
    keep: int | None = None
    """Keep this number of files; remove the oldest ones."""
    count: int | None = None
    """End after this number of messages."""
    seconds: float | None = None
    """End after this time."""
    queue_bytes: int = QUEUE_BYTES
    """Bytes that may wait for the writer."""


@dataclass
class RecorderTotals:
    """What a recorder has done so far."""

    messages: int = 0
    """Messages written, the retained state at the start not included."""
    retained: int = 0
    """Messages in the retained state at the start."""
    dropped: int = 0
    """Messages dropped because the queue was full."""
    disconnects: int = 0
    """Times that the connection was lost."""
    files: int = 0
    file_bytes: int = 0


@dataclass(frozen=True)
class _Received:
    """Messages that came together."""

    messages: Sequence[Message]
    received_ns: int
    monotonic_ns: int
    size: int


class _Queue:
    """Batches and gaps from the network thread to the writer, bounded in bytes. `put` never blocks."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: queue.SimpleQueue[_Received | Gap | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self._dropped = 0
        self._dropping_since = 0
        self.dropped = 0
        """Messages dropped so far."""

    def put(self, messages: Sequence[Message]) -> None:
        """Hand over a batch, or count it as dropped."""
        now = time.monotonic_ns()
        size = sum([len(message.payload) + len(message.topic) for message in messages]) + MESSAGE_BYTES * len(messages)
        with self._lock:
            if self._bytes + size > self._max_bytes:
                self._dropping_since = self._dropping_since or now
                self._dropped += len(messages)
                self.dropped += len(messages)
                return
            self._end_gap(now)
            self._bytes += size
        self._entries.put(_Received(messages, time.time_ns(), now, size))

    def put_gap(self, gap: Gap) -> None:
        """Hand over a gap."""
        self._entries.put(gap)

    def get(self, timeout: float) -> _Received | Gap | None:
        """Return the next entry, or None after `timeout` seconds or a `wake`."""
        try:
            entry = self._entries.get(timeout=max(timeout, 0))
        except queue.Empty:
            return None
        if isinstance(entry, _Received):
            with self._lock:
                self._bytes -= entry.size
        return entry

    def wake(self) -> None:
        """Make `get` return."""
        self._entries.put(None)

    def finish(self) -> None:
        """Hand over the last gap if the queue is dropping now."""
        with self._lock:
            self._end_gap(time.monotonic_ns())

    def _end_gap(self, now: int) -> None:
        if self._dropped:
            self._entries.put(Gap("dropped", self._dropped, self._dropping_since, now))
            self._dropped = self._dropping_since = 0


class Recorder:
    """Records topic filters into files. A context manager: entering connects, subscribes and writes the retained state.

    Entering raises BrokerUnreachable, ConnectionRefused, SubscriptionDenied, RecordingError or MissingPart. `run` is
    for one thread; `stop` of the `Stop` given to it may be set in any thread and in a signal handler.
    """

    def __init__(
        self, settings: MqttSettings, topic_filters: Sequence[str], options: RecorderOptions, *, retry: bool = True
    ) -> None:
        self._settings = settings
        self._filters = tuple(topic_filters)
        self._options = options
        self._queue = _Queue(options.queue_bytes)
        self._format = line_formatter()
        self._failure: MqttkitError | None = None
        self._lost_at = 0
        self._closing = False
        self._version = 5
        self._writer: SeekableWriter | None = None
        self._files: list[Path] = []
        self._started = 0.0
        self.totals = RecorderTotals()
        self._client = MqttClient(settings, on_messages=self._receive, on_state=self._note_state, retry=retry)

    def __enter__(self) -> Recorder:
        try:
            self._client.connect()
            self._version = self._client.protocol_version
            self._client.subscribe(*(self._subscription(each, 2) for each in self._filters))
            self._open_file()
            self.totals.retained = self._write_retained_state()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, stop: Stop, report: Callable[[RecorderTotals], None] | None = None) -> RecorderTotals:
        """Write messages until `stop` is set, or until the count or the time of the options is reached.

        `report` is called about once a second. Raises BrokerUnreachable or another error of the client if the
        connection ended for good, and RecordingError if the file cannot be written; everything received until then is
        in the file.
        """
        options = self._options
        end = None if options.seconds is None else time.monotonic() + options.seconds
        flush_at = time.monotonic() + FLUSH_SECONDS
        while not stop.is_set:
            now = time.monotonic()
            if now >= flush_at:
                self._flush()
                if report is not None:
                    report(self.totals)
                flush_at = now + FLUSH_SECONDS
            if end is not None and now >= end:
                break
            entry = self._queue.get(min(flush_at, end or flush_at) - now)
            if entry is not None and not self._write(entry):
                break
            if self._failure is not None and entry is None:
                self._drain()
                raise self._failure
        self._drain()
        return self.totals

    def close(self) -> None:
        """Disconnect, write everything received, close the file. Idempotent."""
        self._closing = True
        self._client.close(flush=0.0)
        self._drain()
        if self._writer is not None:
            self._writer.close()
            self.totals.file_bytes += self._writer.size
            self._writer = None

    # --- the network thread -------------------------------------------------------------------------------

    def _receive(self, messages: list[Message]) -> None:
        if self._version != 5:  # 3.1.1 sends the retained state although it is recorded separately
            messages = [message for message in messages if not message.retain]
        if messages:
            self._queue.put(messages)

    def _note_state(self, state: ConnectionState, reason: str) -> None:
        if state is ConnectionState.CONNECTED:
            if self._lost_at:
                self._queue.put_gap(Gap("disconnected", 0, self._lost_at, time.monotonic_ns()))
                self._lost_at = 0
        elif not self._lost_at and self._started and not self._closing:
            self._lost_at = time.monotonic_ns()
            self.totals.disconnects += 1
        if state is ConnectionState.CLOSED and self._client.given_up:
            self._failure = self._client.failure or BrokerUnreachable("", "mqtt", reason)
            self._queue.wake()

    # --- the writer ---------------------------------------------------------------------------------------

    def _subscription(self, topic_filter: str, retain_handling: int) -> Subscription:
        """Keep the retain flag as it was published (MQTT 5, 3.8.3.1)."""
        return Subscription(topic_filter, self._options.qos, retain_as_published=True, retain_handling=retain_handling)

    def _open_file(self) -> None:
        number = self.totals.files + 1
        path = self._options.path
        if number > 1:
            path = path.with_name(f"{path.name.removesuffix(SUFFIX)}.{number:04d}{SUFFIX}")
        header = Header(
            started_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            broker=show_address(*self._client.address),
            mqtt_version=self._version,
            subscriptions=self._filters,
            qos=self._options.qos,
            part=number,
        )
        writer = SeekableWriter(path)
        writer.write(header_line(header))
        writer.end_frame()
        self._writer = writer
        self._started = time.monotonic()
        self.totals.files = number
        self._files.append(path)

    def _write_retained_state(self) -> int:
        """Write the broker's retained messages into one frame and return their number.

        The live subscription exists already, so nothing falls between.
        """
        assert self._writer is not None
        count = 0
        filters = [each for each in self._filters if not each.startswith("$share/")]
        if filters:
            client = replace(self._settings.client, client_id=None, clean_session=True, receive_maximum=65_535)
            subscriptions = [self._subscription(each, 0) for each in filters]
            with Subscriber(replace(self._settings, client=client), subscriptions, retry=False) as subscriber:
                for batch in subscriber.batches(ReadOptions(retained_only=True)):
                    lines = self._format(batch.messages, batch.received_at, time.monotonic_ns())
                    self._writer.write(lines, split=False)
                    count += len(batch.messages)
        self._end_retained_frame()
        return count

    def _end_retained_frame(self) -> None:
        assert self._writer is not None
        self._writer.write(b"", split=False)
        self._writer.end_frame()

    def _write(self, entry: _Received | Gap) -> bool:
        """Write an entry; return False once the count of the options is reached."""
        assert self._writer is not None
        left = None if self._options.count is None else self._options.count - self.totals.messages
        try:
            self._rotate()
            if isinstance(entry, Gap):
                self._writer.write(gap_line(entry))
            else:
                messages = entry.messages[:left]
                self._writer.write(self._format(messages, entry.received_ns, entry.monotonic_ns))
                self.totals.messages += len(messages)
        finally:
            self.totals.dropped = self._queue.dropped
        return self._options.count is None or self.totals.messages < self._options.count

    def _rotate(self) -> None:
        """Start a new file if this one is large or old enough."""
        assert self._writer is not None
        options = self._options
        too_large = options.max_bytes is not None and self._writer.size >= options.max_bytes
        too_old = options.max_seconds is not None and time.monotonic() - self._started >= options.max_seconds
        if not (too_large or too_old):
            return
        self._writer.close()
        self.totals.file_bytes += self._writer.size
        self._open_file()
        try:
            self._write_retained_state()
        except (BrokerUnreachable, ConnectionRefused, SubscriptionDenied) as error:
            log.warning("%s starts without the retained state: %s", self._files[-1], error)
            self._end_retained_frame()
        while options.keep is not None and len(self._files) > options.keep:
            self._files.pop(0).unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _drain(self) -> None:
        """Write the messages that wait in the queue."""
        self._queue.finish()
        while self._writer is not None and (entry := self._queue.get(0)) is not None:
            if not self._write(entry):
                return
        self._flush()
