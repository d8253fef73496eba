"""What the sources that listen to a radio share: a thread that scans, restarts, and hands over."""

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
"""Advertisements that may wait for the iterating thread; beyond it the oldest is dropped and counted."""
SILENCE = 30.0
"""Seconds without an advertisement after which the scan is built anew."""
RETRY = 2.0
"""Seconds between two tries to scan again after the radio was lost."""


class Silence(AdapterStuck):
    """Nothing was heard for so long that the scan itself is doubted."""


class RadioSource(Source):
    """Scans in a thread of its own for as long as it is not closed.

    What is wrong with the first try is raised by `start`; later on it is logged, once, and tried again until
    the radio is back. A quiet room and a deaf radio look the same: after `silence` seconds without an
    advertisement the scan is built anew, without a pause.
    """

    def __init__(self, name: str, *, silence: float = SILENCE, retry: float = RETRY) -> None:
        self.silence = silence
        self.retry = retry
        self._name = name
        self._stop = Stop()
        self._queue: queue.SimpleQueue[Advertisement | None] = queue.SimpleQueue()
        self._dropped: Counter[str] = Counter()
        self._scanning = False
        self._trouble = ""
        """What was last warned of, and is not over."""
        self._quiet = False
        """The trouble is that nothing is heard: a scan that begins does not end it."""
        self._settled = threading.Event()
        """Set when the first scan has begun, or failed."""
        self._failure: Exception | None = None
        self._last = 0.0
        """When something was heard or the scan begun, on the monotonic clock."""
        self._thread = threading.Thread(target=self._run, name=f"scan-{name}", daemon=True)

    @abstractmethod
    def scan(self) -> None:
        """Scan until the source is closed: call `begun`, `heard` and often `check`; runs in the thread.

        Raise a MqttkitError when the radio is lost; leave nothing behind.
        """

    def begun(self) -> None:
        """Tell that the radio scans now."""
        self._scanning = True
        self._last = time.monotonic()
        if not self._quiet:
            self._mended()
        self._settled.set()

    def heard(self, advertisement: Advertisement) -> None:
        """Hand over one advertisement."""
        self._last = time.monotonic()
        self._mended()
        if self._queue.qsize() >= QUEUE_SIZE:
            with contextlib.suppress(queue.Empty):  # taken meanwhile: then there is room
                self._queue.get_nowait()
                self._dropped["queue_full"] += 1
        self._queue.put(advertisement)

    def malformed(self, error: Exception) -> None:
        """Count something that the radio said and that is no advertisement."""
        self._dropped["malformed"] += 1
        _log.debug("%s: malformed advertisement: %s", self._name, error)

    def check(self) -> bool:
        """Tell whether to go on scanning; raise Silence where nothing was heard for too long."""
        if time.monotonic() - self._last > self.silence:
            raise Silence(f"nothing heard for {self.silence:g} s")
        return not self._stop.is_set

    @property
    def scanning(self) -> bool:
        """See Source."""
        return self._scanning and not self._stop.is_set

    @property
    def dropped(self) -> Mapping[str, int]:
        """See Source."""
        return self._dropped

    def start(self) -> None:
        """See Source; return when the radio scans."""
        self._thread.start()
        try:
            self._settled.wait()
        except BaseException:  # Ctrl-C: nobody will call __exit__
            self.close()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def close(self) -> None:
        """See Source."""
        self._stop.set()
        self._queue.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        self._thread.join()

    def batches(self) -> Iterator[list[Advertisement]]:
        """See Source."""
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
        """Scan again and again; an error that is none of ours is raised in the iterating thread."""
        while not self._stop.is_set:
            try:
                self.scan()
            except Silence as error:
                self._quiet = True
                self._tell(f"{error}; the scan is restarted every {self.silence:g} s")
            except MqttkitError as error:
                self._scanning = False
                if not self._settled.is_set():
                    self._failure = error
                    break
                self._quiet = False
                self._tell(f"scan lost: {error}; tried again every {self.retry:g} s")
                self._stop.wait(self.retry)
            except Exception as error:  # noqa: BLE001 - a bug, for the thread that can report it
                self._failure = error
                break
        self._scanning = False
        self._settled.set()
        self._queue.put(None)

    def _tell(self, trouble: str) -> None:
        """Warn, once a trouble."""
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("%s: %s", self._name, trouble)

    def _mended(self) -> None:
        """Tell that the trouble is over, where there was one."""
        if self._trouble:
            self._trouble = ""
            _log.info("%s: scanning again", self._name)
