"""What a running controller does, as a stream of JSON objects that ends on a signal or after a time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from mqttkit.controller.discovery.types import DiscoveryFailed, DiscoverySource, to_report
from mqttkit.controller.roles import LocalController
from mqttkit.errors import MqttkitError

log = logging.getLogger(__name__)

ControllerEvent = Mapping[str, Any]


class EventLines:
    """A queue of events. Any thread may put; one thread iterates, and asks for the next when an event is written."""

    def __init__(self, duration: float | None = None) -> None:
        """End after `duration` seconds, counted from now."""
        self.ended = False
        self._put = self._written = 0
        self._closed = False
        self._condition = threading.Condition()
        self._queue: queue.SimpleQueue[ControllerEvent | None] = queue.SimpleQueue()
        self._end = None if duration is None else time.monotonic() + duration

    def put(self, event: ControllerEvent) -> None:
        """Add an event."""
        with self._condition:
            self._put += 1
            self._queue.put(event)

    def flush(self) -> bool:
        """Wait until every event put before is written; return False if that will not happen. Not for the iterator."""
        with self._condition:
            wanted = self._put
            self._condition.wait_for(lambda: self._closed or self._written >= wanted)
            return self._written >= wanted

    def close(self) -> None:
        """Release `flush`: nothing is written any more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def stop(self) -> None:
        """End the stream after the events put before. Any thread or signal handler may call it."""
        self._queue.put(None)

    def until(self, moment: Callable[[], float] | None = None) -> Iterator[ControllerEvent]:
        """Yield events up to a moment of the monotonic clock, or to the end; then `ended` says which it was.

        Each event may change the moment.
        """
        while not self.ended:
            moments = [one for one in (moment() if moment is not None else None, self._end) if one is not None]
            try:
                event = self._queue.get(timeout=max(0.0, min(moments) - time.monotonic()) if moments else None)
            except queue.Empty:
                self.ended = self._end is not None and time.monotonic() >= self._end
                return
            if event is None:
                self.ended = True
                return
            yield event
            with self._condition:
                self._written += 1
                self._condition.notify_all()


class ScanLoop:
    """Scans in a separate thread, and reports, as the stream of a local controller."""

    def __init__(self, controller: LocalController, lines: EventLines, source: DiscoverySource) -> None:
        self._controller, self._lines, self._source = controller, lines, source
        self.error: MqttkitError | None = None
        """The error of the last scan, if it failed or its report could not be kept."""

    def run(self, *, interval: float, cycles: int | None) -> Iterator[ControllerEvent]:
        """Scan every `interval` seconds, or as a policy says, `cycles` times or until the lines end.

        Yields a line for each report and failed scan, and the events of the lines.
        """
        for cycle in count(1):
            began = time.monotonic()
            threading.Thread(target=self._scan, name="discovery", daemon=True).start()
            for event in self._lines.until():
                if isinstance(event, _ScanResult):
                    yield self._report(cycle, event)
                    break
                yield event
            if cycle == cycles or self._lines.ended:
                return
            yield from self._lines.until(lambda began=began: began + self._controller.scan_interval(interval))  # type: ignore[misc]

    def _scan(self) -> None:
        """Scan once; the result goes through the lines, so that a signal ends the wait for it."""
        try:
            self._lines.put(_ScanResult(to_report(self._source())))
        except DiscoveryFailed as error:
            self._lines.put(_ScanResult(error=error))
        except Exception as error:
            log.exception("the discovery failed")
            self._lines.put(_ScanResult(error=DiscoveryFailed(f"the discovery failed: {error!r}")))

    def _report(self, cycle: int, result: _ScanResult) -> ControllerEvent:
        try:
            report = self._send(cycle, result)
        except MqttkitError as error:
            self.error = error
            self._controller.failed_scans += 1
            log.error("scan %d failed: %s", cycle, error)  # noqa: TRY400  the message is complete
            return {"scan": cycle, "error": error.message}
        self.error = None
        changes = {name: len(keys) for name, keys in report["changes"].items()}
        scans = {"subnet": report["subnet"], **report.get("scans", {})} if "subnet" in report else {}
        return {"report": cycle, **scans, "devices": len(report["devices"]), "changes": changes}

    def _send(self, cycle: int, result: _ScanResult) -> dict[str, Any]:
        """Hand over the report of a scan; raise what failed."""
        if result.error is not None:
            raise result.error
        report, promise = self._controller.report_devices({"cycle": cycle, **result})
        if promise.done and not promise.ok:
            raise DiscoveryFailed(f"the report cannot be sent: {promise.reason}")
        return report


class _ScanResult(dict[str, Any]):
    """The report of a scan, on its way through the lines; or the error instead."""

    def __init__(self, report: Mapping[str, Any] | None = None, *, error: DiscoveryFailed | None = None) -> None:
        super().__init__(report or {})
        self.error = error
