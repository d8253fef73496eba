"""The base of the sources with a radio: a thread that scans, restarts after a failure, and fills a queue."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType

from mqttkit.errors import AdapterStuck, MqttkitError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.sources.paced import LARGEST_BATCH
from mqttkit.scanner.sources.protocol import Source
from mqttkit.stop import Stop

_log = logging.getLogger(__name__)

QUEUE_SIZE = 10_000
"""Advertisements that may wait for the iterating thread; a full queue drops and counts the oldest one."""
SILENCE = 30.0
"""Seconds without an advertisement after which the scan is restarted."""
RETRY = 1.0
"""Seconds between attempts to scan again after the radio was lost."""


class Silence(AdapterStuck):
    """No advertisement arrived for so long that the scan may have failed."""


class RadioSource(Source):
    """Scans in its own thread until it is closed.

    `start` raises the error of the first attempt, unless the source waits for its radio. A later error is logged once,
    and the thread tries again until the radio is back. An empty room and a broken scan look the same, so the thread
    restarts the scan after `silence` seconds without an advertisement.
    """

    def __init__(self, name: str, *, wait: bool = False, silence: float = SILENCE, retry: float = RETRY) -> None:
        self.silence = silence
        self.retry = retry
        self._wait = wait
        self._name = name
        self._stop = Stop()
        self._queue: queue.SimpleQueue[Advertisement | None] = queue.SimpleQueue()
        self._dropped: Counter[str] = Counter()
        self._scanning = False
        self._problem = ""
        """The problem of the last warning; empty once it is over."""
        self._quiet = False
        """The problem is silence: only an advertisement ends it, not a new scan."""
        self._settled = threading.Event()
        """Set when the first scan has started or failed."""
        self._failure: Exception | None = None
        self._last = 0.0
        """Time of the last advertisement or scan start, on the monotonic clock."""
        self._thread = threading.Thread(target=self._run, name=f"scan-{name}", daemon=True)

    @abstractmethod
    def scan(self) -> None:
        """Scan until the source is closed: call `begun`, `heard`, and `check` often. Runs in the thread.

        Raise a MqttkitError if the radio is lost, and release everything.
        """

    def begun(self) -> None:
        """Record that the radio scans."""
        self._scanning = True
        self._last = time.monotonic()
        if not self._quiet:
            self._recovered()
        self._settled.set()

    def heard(self, advertisement: Advertisement) -> None:
        """Put one advertisement into the queue."""
        self._last = time.monotonic()
        self._recovered()
        if self._queue.qsize() >= QUEUE_SIZE:
            with contextlib.suppress(queue.Empty):  # the iterating thread has just taken it
                self._queue.get_nowait()
                self._dropped["queue_full"] += 1
        self._queue.put(advertisement)

    def malformed(self, error: Exception) -> None:
        """Count radio data that is not a valid advertisement."""
        self._dropped["malformed"] += 1
        _log.debug("%s: malformed advertisement: %s", self._name, error)

    def check(self) -> bool:
        """Return whether to continue the scan; raise Silence if no advertisement arrived for too long."""
        if time.monotonic() - self._last > self.silence:
            raise Silence(f"no advertisement for {self.silence:g} s")
        return not self._stop.is_set

    @property
    def scanning(self) -> bool:
        """Implement Source."""
        return self._scanning and not self._stop.is_set

    @property
    def dropped(self) -> Mapping[str, int]:
        """Implement Source."""
        return self._dropped

    def start(self) -> None:
        """Implement Source; return when the radio scans."""
        self._thread.start()
        try:
            self._settled.wait()
        except BaseException:  # on Ctrl-C no one calls __exit__
            self.close()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def close(self) -> None:
        """Implement Source."""
        self._stop.set()
        self._queue.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        self._thread.join()

    def batches(self) -> Iterator[list[Advertisement]]:
        """Implement Source."""
        while True:
            heard = self._queue.get()
            batch = []
            while heard is not None:
                batch.append(heard)
                if len(batch) == LARGEST_BATCH or self._queue.empty():
                    break
                heard = self._queue.get()
            if self._failure is not None:
                raise self._failure
            if self._stop.is_set:
                return
            yield batch

    def _run(self) -> None:
        """Scan until the source is closed; pass an unexpected exception to the iterating thread."""
        while not self._stop.is_set:
            try:
                self.scan()
            except Silence as error:
                self._quiet = True
                self._warn(f"{error}; restarting the scan every {self.silence:g} s")
            except MqttkitError as error:
                self._scanning = False
                if not self._settled.is_set() and not self._wait:
                    self._failure = error
                    break
                self._quiet = False
                what = "scan lost" if self._last else "no scan yet"
                self._warn(f"{what}: {error}; trying again every {self.retry:g} s")
                self._settled.set()
                self._stop.wait(self.retry)
            except Exception as error:  # noqa: BLE001 - a bug: the iterating thread reports it
                self._failure = error
                break
        self._scanning = False
        self._settled.set()
        self._queue.put(None)

    def _warn(self, problem: str) -> None:
        """Log a warning once per problem."""
        if problem != self._problem:
            self._problem = problem
            _log.warning("%s: %s", self._name, problem)

    def _recovered(self) -> None:
        """Log that the problem is over, if there was one."""
        if self._problem:
            self._problem = ""
            _log.info("%s: scanning again", self._name)
