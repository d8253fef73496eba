"""What a sink without transactions cannot keep itself: dedupe keys, dead letters, and where it was.

One SQLite file beside the sink. A sink writes its data first and then commits here; what it wrote and
did not commit here, it takes back or repeats under the same key.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.sqlite import DEAD_LETTERS, SqliteLetters, connect, transaction, translated
from mqttkit.bridge.sinks.types import DeadLetter, SinkOptions

_SEEN = """
CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_at ON seen (at);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
PRUNE_SECONDS = 60.0
"""Seconds between removals of keys older than the dedupe window."""


class Ledger:
    """Open until closed; one thread at a time."""

    def __init__(self, path: str, options: SinkOptions) -> None:
        self.path = path
        self.letters = SqliteLetters(path, options.dead_letter_limit)
        self._window = options.dedupe_window
        self._database = connect(path, _SEEN, DEAD_LETTERS)
        self._pruned = 0.0
        self.letters.attach(self._database)

    def new(self, metrics: Sequence[Metric]) -> list[Metric]:
        """Return the metrics whose key is not here and did not come before in the sequence."""
        found: list[Metric] = []
        here: set[str] = set()
        with translated(self.path):
            for metric in metrics:
                if metric.dedupe_id is not None:
                    key = _key(metric)
                    if key in here or self._database.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchone():
                        continue
                    here.add(key)
                found.append(metric)
        return found

    def commit(
        self,
        metrics: Sequence[Metric],
        letters: Sequence[DeadLetter],
        settles: Sequence[str],
        **state: int,
    ) -> None:
        """Remember the metrics' keys, add and remove dead letters, set values, all or nothing."""
        now = int(time.time())
        try:
            with transaction(self._database, self.path):
                keys = ((_key(metric), now) for metric in metrics if metric.dedupe_id is not None)
                self._database.executemany("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", keys)
                self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())
                self.letters.settle(settles)
                self.letters.add(letters)
                self._prune(now)
        except BaseException:
            self.letters.forget_count()
            raise

    def value(self, name: str) -> int:
        """Return a value set before; 0 where there is none."""
        with translated(self.path):
            found = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return int(found[0]) if found else 0

    def probe(self) -> None:
        """Take the writer's lock."""
        with transaction(self._database, self.path):
            pass

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _prune(self, now: int) -> None:
        if time.monotonic() - self._pruned > PRUNE_SECONDS:
            self._pruned = time.monotonic()
            self._database.execute("DELETE FROM seen WHERE at < ?", (now - self._window,))


def _key(metric: Metric) -> str:
    return f"{metric.tenant_id}/{metric.agent_id}/{metric.dedupe_id}"
