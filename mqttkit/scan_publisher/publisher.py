"""The scan publisher: advertisements from a source become messages of a client, and each one is accounted for.

The source runs in its own thread and fills a bounded queue that drops the oldest advertisement, so a slow broker never
blocks the scanner.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError
from mqttkit.scan_publisher.delivery import Delivery
from mqttkit.scan_publisher.hand_over import Arrival, HandOverQueue
from mqttkit.scan_publisher.payload import format_advertisement
from mqttkit.scan_publisher.status import StatusTopic
from mqttkit.scan_publisher.totals import SHUTDOWN, LossLog, ScanTotals
from mqttkit.scanner import Advertisement, Source
from mqttkit.settings import PublisherSettings
from mqttkit.stop import Stop
from mqttkit.topics import check_scanner_id, check_template, fill_template

log = logging.getLogger(__name__)

PLACEHOLDERS = ("scanner_id", "mac_address")
FLUSH_SECONDS = 2.5
"""Seconds after `stop` within which waiting advertisements are published."""
STATUS_SECONDS = 0.5
"""Seconds within which the broker must acknowledge the last status."""
_TICK = 0.2
"""Seconds between checks of the connection, the radio and the statistics."""


class ScanPublisher:
    """Publishes the advertisements of a source until the source ends, `stop` is called or the client gives up."""

    def __init__(
        self,
        client: MqttClient,
        settings: PublisherSettings,
        scanner_id: str,
        *,
        lossless: bool = False,
        status: StatusTopic | None = None,
        on_publish: Callable[[Advertisement, bytes], None] | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._scanner_id = check_scanner_id(scanner_id)
        self._template = check_template(settings.topic, PLACEHOLDERS)
        self._lossless = lossless
        max_age = float("inf") if lossless else settings.max_age
        self._qos = client.settings.client.qos if settings.qos is None else settings.qos
        self._queue = HandOverQueue(settings.queue_size, max_age=max_age, lossless=lossless)
        self._delivery = Delivery(client, qos=self._qos, max_age=max_age)
        self._topic = functools.lru_cache(maxsize=4_096)(self._fill_topic)
        self._status = status
        self._on_publish = on_publish
        self._source: Source | None = None
        self._stopping = Stop()
        self._scanned = 0
        self._dropped: Counter[str] = Counter()
        self._losses = LossLog()
        self._next_report = 0.0
        self._next_stats = 0.0
        self._last = (0.0, 0)
        self._error: BaseException | None = None

    def run(self, source: Source) -> ScanTotals:
        """Publish until the source ends, publish what still waits within FLUSH_SECONDS, and return the totals.

        A lossless publisher whose source ended waits for the broker as long as it takes. Blocks. Raises the error of
        the source after its advertisements are published, or the failure of the client if it gives up.
        """
        self._source = source
        if self._stopping.is_set:
            source.close()
        self._last = (time.monotonic(), 0)
        self._next_stats = self._last[0] + self._settings.stats_interval
        thread = threading.Thread(target=self._scan, args=(source,), name="scanner", daemon=True)
        thread.start()
        try:
            self._publish_all(source)
        finally:
            source.close()
            self._queue.end()
            thread.join(STATUS_SECONDS)
        if self._status is not None:
            receipt = self._status.show(self._client, online=False)
            if receipt is not None:
                receipt.wait(STATUS_SECONDS)
        if self._error is not None:
            raise self._error
        if self._client.given_up and self._client.failure is not None:
            raise self._client.failure
        return self.totals()

    def stop(self) -> None:
        """End `run` soon, even if it has not started. Any thread or signal handler may call it."""
        self._stopping.set()
        if self._source is not None:
            self._source.close()

    def totals(self) -> ScanTotals:
        """Return the counts so far."""
        totals = ScanTotals(self._scanned, self._delivery.published, acknowledged=self._qos > 0)
        totals.dropped = self._dropped + self._queue.dropped + self._delivery.dropped
        if self._source is not None:
            totals.withheld.update(self._source.dropped)
        return totals

    def finish(self) -> ScanTotals:
        """Count every advertisement without an outcome as lost, and return the final totals.

        Call it after `run`, when the client is closed and no further outcome can arrive.
        """
        self._delivery.abandon()
        totals = self.totals()
        if totals.waiting:
            self._dropped[SHUTDOWN] += totals.waiting
            totals = self.totals()
        self._losses.report(totals.dropped, time.monotonic())
        return totals

    # --- inside -------------------------------------------------------------------------------------------

    def _scan(self, source: Source) -> None:
        """Run the source, in its own thread."""
        try:
            for batch in source.batches():
                self._scanned += len(batch)
                self._queue.put(batch)
        except BaseException as error:  # noqa: BLE001  # `run` raises it in the caller's thread
            self._error = error
        finally:
            self._queue.end()

    def _publish_all(self, source: Source) -> None:
        deadline = float("inf")
        while not self._client.given_up:
            self._delivery.settle()
            self._report(source)
            if deadline == float("inf") and self._is_ending():
                deadline = time.monotonic() + FLUSH_SECONDS
            if (self._queue.ended and not self._queue and not self._delivery) or time.monotonic() > deadline:
                return
            self._publish_some()

    def _is_ending(self) -> bool:
        """Return whether the time for the rest of the messages starts now."""
        return self._stopping.is_set or (self._queue.ended and not self._lossless)

    def _publish_some(self) -> None:
        """Publish messages if there is room; otherwise wait for a tick."""
        if self._client.connected and self._delivery.send_again():
            return
        room = self._delivery.room
        if not room or (self._queue.ended and not self._queue):
            self._delivery.wait(_TICK)
            self._queue.expire()
            return
        for arrival in self._queue.take(room, _TICK):
            self._publish(arrival)

    def _publish(self, arrival: Arrival) -> None:
        arrived, number, advertisement = arrival
        try:
            topic = self._topic(advertisement.mac_address)
            payload = format_advertisement(advertisement, self._scanner_id, number, raw=self._settings.raw)
        except (MqttkitError, ValueError) as error:
            self._dropped["invalid"] += 1
            log.debug("invalid advertisement of %r: %s", advertisement.mac_address, error)
            return
        if self._on_publish is not None:
            self._on_publish(advertisement, payload)
        self._delivery.send((arrived, topic, payload))

    def _fill_topic(self, mac_address: str) -> str:
        return fill_template(self._template, {"scanner_id": self._scanner_id, "mac_address": mac_address})

    def _report(self, source: Source) -> None:
        """Keep the status up to date; log losses, and the statistics every `stats_interval` seconds."""
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + _TICK
        ending = self._stopping.is_set or self._queue.ended  # the last status follows the last advertisement
        if self._status is not None and not ending:
            self._status.show(self._client, online=source.scanning)
        self._losses.report(self._dropped + self._queue.dropped + self._delivery.dropped, now)
        if now < self._next_stats:
            return
        totals = self.totals()
        since, before = self._last
        log.info("%.1f messages/s; %s", (totals.published - before) / max(now - since, 0.001), totals)
        self._last = (now, totals.published)
        self._next_stats = now + self._settings.stats_interval
