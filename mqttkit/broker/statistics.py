"""Live statistics that mosquitto publishes on `$SYS/#`."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from mqttkit.broker.profile import Profile
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import ClientSettings, MqttSettings

SYS = "$SYS/broker/"
FIRST_SECONDS = 8.0
"""How long a new broker may take to publish its first statistics."""
QUIET_SECONDS = 0.05
"""After this silence an update is complete."""
TOPICS = {
    "version": "version",
    "uptime": "uptime",
    "clients_connected": "clients/connected",
    "clients_total": "clients/total",
    "subscriptions": "subscriptions/count",
    "retained": "retained messages/count",
    "stored": "store/messages/count",
    "packets_received": "messages/received",
    "packets_sent": "messages/sent",
    "publish_dropped": "publish/messages/dropped",
    "bytes_received": "bytes/received",
    "bytes_sent": "bytes/sent",
    "heap_bytes": "heap/current",
    "received_per_minute": "load/publish/received/1min",
    "sent_per_minute": "load/publish/sent/1min",
}
"""The topic below `$SYS/broker/` of each field; a topic that was never published counts as 0.

mosquitto 2.0 does not count publish/messages/received, so the PUBLISH rates are its averages over a minute.
"""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics of a broker at one moment."""

    version: str
    """Version of the broker."""
    uptime: int
    """Seconds since it started."""
    clients_connected: int = 0
    """Clients with a connection, this one included."""
    clients_total: int = 0
    """Connected clients, and sessions of clients that are away."""
    subscriptions: int = 0
    """Subscriptions of all clients."""
    retained: int = 0
    """Retained messages, `$SYS` included."""
    stored: int = 0
    """Messages in the broker's store: retained, queued and in flight."""
    packets_received: int = 0
    """MQTT packets of any kind received since the start."""
    packets_sent: int = 0
    """MQTT packets of any kind sent since the start."""
    publish_dropped: int = 0
    """Messages dropped because a client's queue was full."""
    bytes_received: int = 0
    """Bytes received since the start."""
    bytes_sent: int = 0
    """Bytes sent since the start."""
    heap_bytes: int = 0
    """Heap in use; 0 if the broker was built without that counter."""
    received_per_second: float = 0.0
    """PUBLISH packets received per second, the broker's average over a minute."""
    sent_per_second: float = 0.0
    """PUBLISH packets sent per second, averaged likewise."""
    packets_received_per_second: float | None = None
    """Packets of any kind received per second since the previous update; None in the first update."""
    packets_sent_per_second: float | None = None
    """Packets of any kind sent per second, likewise."""

    def since(self, before: Statistics) -> Statistics:
        """Return a copy with the rates since an earlier moment."""
        seconds = self.uptime - before.uptime
        if seconds <= 0:
            return self
        return dataclasses.replace(
            self,
            packets_received_per_second=round((self.packets_received - before.packets_received) / seconds, 3),
            packets_sent_per_second=round((self.packets_sent - before.packets_sent) / seconds, 3),
        )


class StatisticsWatcher:
    """A subscription to `$SYS/#` as the operator. A context manager; one thread uses it."""

    def __init__(self, profile: Profile) -> None:
        self._values: dict[str, str] = {}
        self._updates = 0
        self._arrived = 0
        self._condition = threading.Condition()
        settings = MqttSettings(broker=profile.to_broker_settings(), client=ClientSettings(version=profile.version))
        self._client = MqttClient(settings, on_messages=self._take, retry=False)

    def __enter__(self) -> StatisticsWatcher:
        self._client.connect(timeout=10)
        try:
            self._client.subscribe(Subscription("$SYS/#"))
            # The broker sends the retained messages of the first subscription before it answers the second one.
            self._client.subscribe(Subscription("mqttkit/probe/none"))
        except BaseException:
            self._client.close(flush=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(flush=0)

    def now(self) -> Statistics | None:
        """Return the latest statistics, or None if the broker has not published any yet."""
        with self._condition:
            values = dict(self._values)
        return parse(values) if "uptime" in values else None

    def retained(self) -> int:
        """Return the number of retained messages, those of `$SYS` excluded; 0 before the first statistics."""
        with self._condition:
            return max(0, int(_number(self._values.get(TOPICS["retained"], ""))) - len(self._values))

    def bridge_connected(self, client_id: str) -> bool:
        """Return whether the broker reports that its bridge with this client identifier is connected."""
        with self._condition:
            return self._values.get(f"connection/{client_id}/state") == "1"

    def updates(self) -> Iterator[Statistics]:
        """Yield the statistics now and after each update, indefinitely.

        Raises `LifecycleError` if none arrive, or the error that ended the connection.
        """
        self._wait(lambda: self.now() is not None, FIRST_SECONDS)
        last = self.now()
        while last is not None:
            yield last
            self._wait(functools.partial(self._newer, self._updates), None)
            self._settle()
            fresh = self.now()
            last = fresh.since(last) if fresh else None

    def _wait(self, ready: Callable[[], bool], seconds: float | None) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not ready():
            with self._condition:
                self._condition.wait(0.2)
            if not self._client.connected:
                raise self._client.failure or LifecycleError("the broker closed the connection")
            if deadline is not None and time.monotonic() > deadline:
                raise LifecycleError(
                    f"the broker sent no $SYS topics in {FIRST_SECONDS:g} s",
                    hint="Its user may need: topic read $SYS/#",
                )

    def _newer(self, update: int) -> bool:
        return self._updates > update

    def _settle(self) -> None:
        """Wait until an update is complete."""
        with self._condition:
            while True:
                before = self._arrived
                self._condition.wait(QUIET_SECONDS)
                if self._arrived == before:
                    return

    def _take(self, messages: list[Message]) -> None:
        with self._condition:
            for message in messages:
                name = message.topic.removeprefix(SYS)
                self._values[name] = message.payload.decode(errors="replace")
                self._updates += name == "uptime"
            self._arrived += 1
            self._condition.notify_all()


def parse(values: dict[str, str]) -> Statistics:
    """Return the statistics from `$SYS` values by topic below `$SYS/broker/`; a missing value is 0."""
    found = {name: _number(values.get(topic, "")) for name, topic in TOPICS.items() if name != "version"}
    return Statistics(
        version=values.get("version", "unknown").removeprefix("mosquitto version "),
        received_per_second=round(found.pop("received_per_minute") / 60, 3),
        sent_per_second=round(found.pop("sent_per_minute") / 60, 3),
        **{name: int(value) for name, value in found.items()},
    )


def _number(text: str) -> float:
    """Return the number at the start of a value such as `12 seconds`; 0 if there is none."""
    try:
        return float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return 0.0
