"""The demonstration: recorded advertisements through the real publisher, broker and subscriber, each one counted."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files

from mqttkit.broker.profile import Profile
from mqttkit.client import MqttClient
from mqttkit.messages import Subscription
from mqttkit.scan_publisher import ScanPublisher
from mqttkit.scanner import Advertisement, open_source
from mqttkit.settings import ClientSettings, MqttSettings, PublisherSettings, ScannerSettings
from mqttkit.subscriber import Subscriber

CAPTURE = "street-32-per-second.btsnoop"
SPEED = 4.0
"""Times the recorded pace: the first seconds of the capture are quiet."""
GRACE_SECONDS = 2.0
"""How long to wait for messages after the last one was published."""


@dataclass(frozen=True)
class DemoReport:
    """The result of a demonstration."""

    published: int
    received: int
    dropped: int
    """Advertisements that were not published."""
    seconds: float
    p50_ms: float
    """Median of the latency from advertisement to subscriber, milliseconds."""
    p99_ms: float

    @property
    def lost(self) -> int:
        """Advertisements that did not reach the subscriber."""
        return self.published - self.received + self.dropped

    def lines(self) -> list[str]:
        """Return the summary, one figure per line."""
        rate = self.received / self.seconds if self.seconds else 0.0
        return [
            f"published  {self.published}",
            f"received   {self.received}",
            f"lost       {self.lost}",
            f"rate       {rate:.1f} messages/s",
            f"latency    p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms",
        ]


class Demo:
    """Replays the bundled capture for some seconds; `batches` yields the advertisements received."""

    def __init__(self, profile: Profile, *, seconds: float = 15.0) -> None:
        client = ClientSettings(version=profile.version)
        self._settings = MqttSettings(broker=profile.to_broker_settings(), client=client)
        self._seconds = seconds
        self._publisher: ScanPublisher | None = None
        self._stopping = False
        self._sent: dict[bytes, list[float]] = {}
        self._sent_lock = threading.Lock()
        self._latencies: list[float] = []
        self._received = 0
        self._began = 0.0
        self._ended = 0.0
        self._error: BaseException | None = None

    def batches(self) -> Iterator[list[Advertisement]]:
        """Run the demonstration; yield advertisements as they are received. Blocks between them."""
        with (
            self._subscriber() as subscriber,
            MqttClient(self._settings) as client,
            as_file(files("mqttkit") / "data" / "captures" / CAPTURE) as capture,
        ):
            client.connect()
            source = ScannerSettings(source=f"replay:{capture}", speed=SPEED, loop=True)
            self._publisher = ScanPublisher(client, PublisherSettings(), "demo", on_publish=self._note_sent)
            if self._stopping:
                self._publisher.stop()
            worker = threading.Thread(target=self._publish, args=(self._publisher, source, subscriber), name="demo")
            self._began = time.monotonic()
            worker.start()
            try:
                for batch in subscriber.batches():
                    yield [self._take(message.payload, batch.received_at / 1e9) for message in batch.messages]
            finally:
                self._publisher.stop()
                worker.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the demonstration soon, even before it started. Any thread or signal handler may call it."""
        self._stopping = True
        if self._publisher is not None:
            self._publisher.stop()

    def progress(self) -> tuple[int, int]:
        """Return the advertisements published and received so far."""
        received = self._received
        published = self._publisher.totals().published if self._publisher else 0
        return max(published, received), received  # a message may arrive before it is counted as published

    def report(self) -> DemoReport:
        """Return the result, after `batches` has ended."""
        assert self._publisher is not None
        totals = self._publisher.totals()
        latencies = sorted(self._latencies) or [0.0]
        p50, p99 = (latencies[min(int(len(latencies) * part), len(latencies) - 1)] * 1e3 for part in (0.5, 0.99))
        return DemoReport(totals.published, self._received, totals.lost, self._ended - self._began, p50, p99)

    # --- inside -------------------------------------------------------------------------------------------

    def _subscriber(self) -> Subscriber:
        return Subscriber(self._settings, [Subscription("ble/raw/#")])

    def _publish(self, publisher: ScanPublisher, settings: ScannerSettings, subscriber: Subscriber) -> None:
        """Publish until the time is up or `stop` is called, then wait for the last messages; runs in a thread."""
        timer = threading.Timer(self._seconds, publisher.stop)
        try:
            with open_source(settings) as source:
                timer.start()
                published = publisher.run(source).published
            self._ended = time.monotonic()
            deadline = self._ended + GRACE_SECONDS
            while self._received < published and time.monotonic() < deadline:
                time.sleep(0.01)
        except Exception as error:  # noqa: BLE001  # raised again by `batches`
            self._error = error
        finally:
            timer.cancel()
            with contextlib.suppress(RuntimeError):
                timer.join()
            subscriber.stop()

    def _note_sent(self, advertisement: Advertisement, payload: bytes) -> None:
        with self._sent_lock:
            self._sent.setdefault(payload, []).append(advertisement.timestamp)

    def _take(self, payload: bytes, when: float) -> Advertisement:
        """Count one received message; `when` is in seconds since 1970."""
        self._received += 1
        with self._sent_lock:
            heard = self._sent[payload]
            self._latencies.append(when - heard.pop(0))
            if not heard:
                del self._sent[payload]
        return Advertisement.from_json(json.loads(payload))
