"""The scan publisher under load: a recording at any rate, counted at the subscriber."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mqttkit.bench.plan import Plan, Sent
from mqttkit.bench.usage import cpu_seconds, peak_memory
from mqttkit.client import MqttClient
from mqttkit.messages import Message
from mqttkit.scan_publisher import ScanPublisher
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.recording import read_recording
from mqttkit.scanner.sources.paced import PacedSource
from mqttkit.settings import PublisherSettings
from mqttkit.stop import Stop

SHIPPED = Path(__file__).parents[1] / "data" / "captures" / "street-32-per-second.btsnoop"
KEPT = 10_000
_NAME = b'"local_name":"'


class NumberedReplay(PacedSource):
    """Repeats a recording; the local name of each advertisement is its sequence number and its scheduled time."""

    def __init__(self, plan: Plan) -> None:
        """Read the recording; raise RecordingError if it is invalid."""
        super().__init__()
        self._plan = plan
        self._heard = list(itertools.islice(read_recording(plan.source or str(SHIPPED)), KEPT))

    def upcoming(self) -> Iterable[tuple[float, Advertisement]]:
        """Implement PacedSource."""
        return self._numbered(time.monotonic_ns())

    def _numbered(self, start: int) -> Iterator[tuple[float, Advertisement]]:
        plan = self._plan
        for number, heard in enumerate(itertools.cycle(self._heard)):
            offset = number / plan.rate if plan.rate else 0.0
            now = time.monotonic_ns()
            if plan.over(number, offset or (now - start) / 1e9):
                return
            when = start + int(offset * 1e9) if plan.rate else now
            yield offset, dataclasses.replace(heard, local_name=f"{number}/{when}")


def publish_scan(plan: Plan, client: MqttClient, source: NumberedReplay, stop: Stop) -> Sent:
    """Publish a numbered replay with the scan publisher."""
    settings = PublisherSettings(topic=f"{plan.topic}/{{scanner_id}}/{{mac_address}}", qos=plan.qos)
    publisher = ScanPublisher(client, settings, "bench", lossless=not plan.rate)
    began, cpu = time.monotonic(), cpu_seconds()
    ended = threading.Event()
    threading.Thread(target=_stop_publisher, args=(stop, ended, publisher), daemon=True).start()
    with source:
        totals = publisher.run(source)
    ended.set()
    seconds = time.monotonic() - began
    return Sent(
        messages=(totals.scanned,),
        seconds=seconds,
        cpu=cpu_seconds() - cpu,
        outcomes={"dropped": totals.dropped.total()},
        behind=max(seconds - totals.scanned / plan.rate, 0.0) if plan.rate else 0.0,
        memory=peak_memory(),
    )


def _stop_publisher(stop: Stop, ended: threading.Event, publisher: ScanPublisher) -> None:
    while not ended.is_set():
        if stop.wait(0.2):
            publisher.stop()
            return


def read_advertisement(message: Message) -> tuple[int, int, int]:
    """Read sequence number and scheduled time from a message of the scan publisher."""
    payload = message.payload
    start = payload.find(_NAME)
    if start < 0:
        name = str(json.loads(payload)["local_name"]).encode()
    else:
        start += len(_NAME)
        name = payload[start : payload.index(b'"', start)]
    number, _, when = name.partition(b"/")
    return 0, int(number), int(when)
