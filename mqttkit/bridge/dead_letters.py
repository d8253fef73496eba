"""List, retry, export and purge dead letters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mqttkit.bridge.metric import Metric, MetricParser, Refusal
from mqttkit.bridge.sinks.types import DeadLetterStore, MetricBatch, Sink, StoredLetter
from mqttkit.bridge.tenants.types import TenantRegistry
from mqttkit.errors import SinkRefused, SinkUnavailable

logger = logging.getLogger(__name__)

PAGE = 500
"""Letters read, and retried in one batch, at a time."""


@dataclass(frozen=True, kw_only=True)
class LetterSelection:
    """Which letters to work on: those that match every condition that is set."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    before_ms: int | None = None
    """Received before this, milliseconds since 1970."""

    def matches(self, stored: StoredLetter) -> bool:
        """Return whether the letter matches."""
        return (
            (not self.ids or stored.id in self.ids)
            and self.reason in (None, stored.letter.reason)
            and (self.before_ms is None or stored.letter.received_ms < self.before_ms)
        )


def select(store: DeadLetterStore, selection: LetterSelection) -> Iterator[StoredLetter]:
    """Yield the matching letters in the order they were received, reading page by page."""
    after = ""
    while page := store.read(after=after, limit=PAGE):
        after = page[-1].id
        yield from filter(selection.matches, page)


def purge(store: DeadLetterStore, selection: LetterSelection) -> int:
    """Remove the matching letters; return how many."""
    return sum(store.remove([stored.id for stored in page]) for page in _pages(select(store, selection)))


class Retried(NamedTuple):
    """How many retried letters were stored, known already, or refused again."""

    stored: int
    duplicate: int
    refused: int
    """These stay in the store."""

    def plus(self, other: Retried) -> Retried:
        """Return the sums."""
        return Retried(*(one + another for one, another in zip(self, other, strict=True)))


def retry(sink: Sink, parser: MetricParser, registry: TenantRegistry, selection: LetterSelection) -> Retried:
    """Parse the matching letters again; store those that are valid now and remove them in the same transaction."""
    done = Retried(0, 0, 0)
    for page in _pages(select(sink.letters, selection)):
        parsed = [(letter.id, _parse(parser, letter)) for letter in page]
        tenants = {metric.tenant_id for _, metrics in parsed for metric in metrics}
        known = registry.known(tenants) if tenants else set()
        good = [(name, metrics) for name, metrics in parsed if metrics and metrics[0].tenant_id in known]
        done = done.plus(_commit(sink, good)).plus(Retried(0, 0, len(page) - len(good)))
    return done


def _commit(sink: Sink, good: list[tuple[str, list[Metric]]]) -> Retried:
    """Store the metrics and remove their letters; if the sink refuses some, find those and leave their letters."""
    if not good:
        return Retried(0, 0, 0)
    batch = MetricBatch([metric for _, metrics in good for metric in metrics], settles=[name for name, _ in good])
    try:
        try:
            committed = sink.commit(batch)
        except SinkUnavailable as error:  # a bridge beside this command may have rotated the file
            logger.debug("trying again: %s", error)
            committed = sink.commit(batch)
    except SinkRefused as error:
        if len(good) == 1:
            logger.warning("the sink refuses letter %s: %s", good[0][0], error)
            return Retried(0, 0, 1)
        half = len(good) // 2
        return _commit(sink, good[:half]).plus(_commit(sink, good[half:]))
    return Retried(committed.stored, committed.duplicate, 0)


def export(store: DeadLetterStore, selection: LetterSelection, write: Callable[[dict[str, object]], None]) -> int:
    """Call `write` with each matching letter as a JSON object; return how many."""
    count = 0
    for stored in select(store, selection):
        write({"id": stored.id, **stored.letter._asdict()})
        count += 1
    return count


def _parse(parser: MetricParser, stored: StoredLetter) -> list[Metric]:
    """Return the metrics of a letter; none if it is still wrong."""
    letter = stored.letter
    if not letter.whole:
        return []
    try:
        return parser.parse_all(letter.topic, letter.body, letter.received_ms)
    except Refusal:
        return []
    except Exception as error:  # noqa: BLE001 - one letter must not stop the others
        logger.warning("letter %s cannot be parsed: %r", stored.id, error)
        return []


def _pages(letters: Iterator[StoredLetter]) -> Iterator[list[StoredLetter]]:
    page: list[StoredLetter] = []
    for stored in letters:
        page.append(stored)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
