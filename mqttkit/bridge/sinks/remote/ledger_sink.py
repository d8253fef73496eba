"""Send batches to a server, with a ledger on disk that remembers what was sent.

The ledger stores each request before it is sent. After a crash the sink sends the same request again, so a server
that recognises a repeated request stores the batch once. The ledger also keeps the dedupe keys of stored metrics.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mqttkit.bridge.identity import state_directory
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import Ledger, PendingPost, dedupe_key
from mqttkit.bridge.sinks.remote.owner_lock import OwnerLock
from mqttkit.bridge.sinks.remote.recent_requests import ForgetfulServer, RecentRequests
from mqttkit.bridge.sinks.types import (
    Committed,
    DeadLetterStore,
    MetricBatch,
    NewMetrics,
    SinkOptions,
    own_batch_id,
)
from mqttkit.errors import SinkBroken, SinkRefused, SinkUnavailable

_RECENT = "recent requests"
"""The lock of the process that looks after the recent requests of all."""

logger = logging.getLogger(__name__)


class Destination(Protocol):
    """The server of a `LedgerSink`. Use it from one thread at a time; every method may block."""

    @property
    def name(self) -> str:
        """For logs; without secrets."""
        ...

    @property
    def target(self) -> str:
        """See `Sink.target`; without secrets."""
        ...

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return the body of a request; raise SinkRefused if the server would not store one of the metrics."""
        ...

    def check_reachable(self) -> None:
        """Raise SinkUnavailable if a request would probably fail."""
        ...

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """Send the request and wait until it is stored; raise SinkUnavailable or SinkRefused.

        `repeated` is True if an earlier attempt may have reached the server.
        """
        ...

    def close(self) -> None:
        """Close the connection; may be called twice."""
        ...


class LedgerSink:
    """One request per batch, each in the ledger until the server has answered."""

    def __init__(self, destination: Destination, options: SinkOptions) -> None:
        self.name, self.target = destination.name, destination.target
        self._destination = destination
        self._recent = RecentRequests(destination) if isinstance(destination, ForgetfulServer) else None
        self._options = options
        self._ledger: Ledger | None = None
        self._lock: OwnerLock | None = None

    @property
    def letters(self) -> DeadLetterStore:
        """The ledger's."""
        return self._ledger_file().letters

    def open(self) -> None:
        """Open the ledger. The sink connects to the server at the first batch."""
        self._ledger_file()

    def open_letters(self) -> None:
        """Open an existing ledger; raise SinkBroken if there is none."""
        path = self._ledger_path()
        if not Path(path).expanduser().exists():
            hint = "Run this with the bridge's XDG_STATE_HOME, or give the bridge's file with --dead-letters"
            raise SinkBroken(f"no ledger {path}", hint=hint)
        self._ledger_file()

    def probe(self) -> None:
        """Check that the ledger is writable and the server reachable; send a request again that a crash interrupted."""
        ledger = self._ledger_file()
        self._check_ledger(ledger)
        ledger.probe()
        self._destination.check_reachable()
        self._resend(ledger, own_batch_id())

    def commit(self, batch: MetricBatch) -> Committed:
        """Send the new metrics, then commit the ledger."""
        ledger = self._ledger_file()
        self._check_ledger(ledger)
        if batch.letters:
            ledger.letters.check_room()
        self._resend(ledger, batch.id)
        start = self._start()
        fresh, post, repeated = self._prepare(ledger, batch)
        if post is not None:
            try:
                self._destination.send(post, repeated=repeated)
            except SinkRefused:
                ledger.settle_pending(post, stored=False)
                raise
        ledger.commit(fresh, batch.letters, batch.settles, batch=batch.id, start=start)
        return Committed(len(fresh.metrics), len(batch.metrics) - len(fresh.metrics))

    def close(self) -> None:
        """Close connection and ledger."""
        self._destination.close()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _prepare(self, ledger: Ledger, batch: MetricBatch) -> tuple[NewMetrics, PendingPost | None, bool]:
        """Return what is new, the request for it, and whether the request may have reached the server.

        No metric is in the requests of two processes.
        """
        fresh = ledger.new(batch)
        if not fresh.metrics:
            return fresh, None, False
        if (earlier := ledger.pending(batch.id)) is not None:
            return fresh, earlier, True
        post = PendingPost(batch.id, self._destination.encode(fresh.metrics), _keys(fresh.metrics))
        if not ledger.claim(post):
            raise SinkUnavailable("another process is sending some of these metrics")
        return fresh, post, False

    def _resend(self, ledger: Ledger, batch: str) -> None:
        """Send our pending requests again, and those of ended processes, but not that of `batch`."""
        ours = _owner(batch)
        if self._lock is None:
            self._lock = OwnerLock(ledger.path, ours)
        for name in ledger.pending_batches():
            if _owner(name) == ours:
                if name != batch:
                    self._resend_one(ledger, name)
                continue
            with self._lock.taking(_owner(name)) as ended:
                if ended:
                    self._resend_one(ledger, name)
        if self._recent is not None:
            with self._lock.taking(_RECENT) as ours_alone:
                if ours_alone:
                    self._recent.check(ledger)

    def _start(self) -> str:
        """Return the server's start as known before a request is sent: a restart meanwhile must not go unnoticed."""
        return self._recent.start() if self._recent is not None else ""

    def _resend_one(self, ledger: Ledger, batch: str) -> None:
        post = ledger.pending(batch)
        if post is None:  # another process has sent it meanwhile
            return
        start = self._start()
        try:
            self._destination.send(post, repeated=True)
        except SinkRefused as error:
            logger.warning("the server refused a batch of an earlier run; its metrics arrive again: %s", error)
            ledger.settle_pending(post, stored=False)
        else:
            ledger.settle_pending(post, stored=True, start=start)

    def _check_ledger(self, ledger: Ledger) -> None:
        try:
            ledger.check_file()
        except SinkUnavailable:
            self.close()
            raise

    def _ledger_file(self) -> Ledger:
        if self._ledger is None:
            path = self._ledger_path()
            if self._options.dead_letters is None:
                Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ledger = Ledger(path, self._options)
        return self._ledger

    def _ledger_path(self) -> str:
        if self._options.dead_letters is not None:
            return self._options.dead_letters
        place = f"{self.name}?{self.target}" if self.target else self.name
        digest = hashlib.sha256(place.encode()).hexdigest()[:12]
        return str(state_directory() / f"ledger-{digest}.db")


def _keys(metrics: Sequence[Metric]) -> tuple[str, ...]:
    return tuple(dedupe_key(metric) for metric in metrics if metric.dedupe_id is not None)


def _owner(batch: str) -> str:
    """Return the process that made the identifier of a batch (see `own_batch_id`)."""
    return batch.rpartition("-")[0]
