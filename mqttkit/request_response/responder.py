"""Answer requests with a function.

Each request is answered in one of a bounded number of threads. If all of them are busy, the client stops reading, and
the broker keeps the next requests. An answer goes to the request's response topic with its correlation data (MQTT 5,
4.10). A failed request is answered too: with the user property `error`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message, Properties, Subscription
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop
from mqttkit.topics import check_topic_name

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often the reader looks at the stop."""
MAX_ERROR = 200
"""Characters of an error that an answer carries."""


@dataclass(frozen=True, kw_only=True)
class ResponderOptions:
    """Which requests are answered, and how."""

    topic_filters: tuple[str, ...]
    qos: int = 1
    """QoS of the subscription and of the answers."""
    response_topic: str | None = None
    """Topic for answers to requests that name none, as all of MQTT 3.1.1."""
    concurrency: int = 4
    """Requests answered at a time."""
    count: int | None = None
    """End after this number of requests."""


@dataclass
class ResponderTotals:
    """What a responder has done."""

    answered: int = 0
    failed: int = 0
    """Requests whose function raised an error; they were answered with it."""
    unanswerable: int = 0
    """Requests that name no valid response topic."""
    undelivered: int = 0
    """Answers that the broker denied or did not acknowledge."""


class Responder:
    """Answers requests until stopped. A context manager: entering connects and subscribes.

    `answer` runs in several threads. What it raises is the error that the requester gets.
    """

    def __init__(
        self,
        settings: MqttSettings,
        options: ResponderOptions,
        answer: Callable[[Message], bytes],
        *,
        retry: bool = True,
    ) -> None:
        self._options = options
        self._answer = answer
        self._client = MqttClient(settings, retry=retry)
        self._places = threading.BoundedSemaphore(options.concurrency)
        self._lock = threading.Lock()
        self.totals = ResponderTotals()

    def __enter__(self) -> Responder:
        try:
            self._client.connect()
            subscriptions: Sequence[Subscription] = [
                Subscription(each, self._options.qos, retain_handling=2) for each in self._options.topic_filters
            ]
            self._client.subscribe(*subscriptions)
        except BaseException:
            self._client.close(flush=0.0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, stop: Stop) -> ResponderTotals:
        """Answer until `stop` is set or the count is reached.

        Raises the client's error if the connection ended for good.
        """
        taken = 0
        with ThreadPoolExecutor(self._options.concurrency, thread_name_prefix="mqttkit-respond") as pool:
            while not stop.is_set:
                for request in self._client.messages(POLL_SECONDS):
                    if request.retain:
                        continue
                    if not self._wait_for_worker(stop):
                        return self.totals
                    pool.submit(self._handle, request)
                    taken += 1
                    if stop.is_set or taken == self._options.count:
                        return self.totals
        return self.totals

    def _wait_for_worker(self, stop: Stop) -> bool:
        """Wait until a thread is free; return False if `stop` is set before."""
        while not self._places.acquire(timeout=POLL_SECONDS):
            if stop.is_set:
                return False
        return True

    def _handle(self, request: Message) -> None:
        """Answer one request, in a thread of the pool."""
        try:
            self._respond(request)
        except Exception:
            log.exception("a request on %r was not answered", request.topic)
            self._count("undelivered")
        finally:
            self._places.release()

    def _respond(self, request: Message) -> None:
        asked = request.properties or Properties()
        topic = asked.response_topic or self._options.response_topic
        if topic is None or not _is_topic_name(topic):
            log.warning("a request on %r names no response topic", request.topic)
            self._count("unanswerable")
            return
        error = ""
        try:
            payload = self._answer(request)
        except Exception as failure:  # noqa: BLE001  # the requester gets it
            payload, error = b"", (str(failure) or type(failure).__name__)[:MAX_ERROR]
            log.warning("a request on %r failed: %s", request.topic, error)
        properties = None
        if self._client.protocol_version == 5:
            user_properties = (("error", error),) if error else ()
            properties = Properties(correlation_data=asked.correlation_data, user_properties=user_properties)
        receipt = self._client.publish(topic, payload, qos=self._options.qos, properties=properties, wait=30.0)
        receipt.wait(30.0)
        if not receipt.ok:
            log.error("the answer on %r was not delivered: %s", topic, receipt.reason or "no acknowledgement")
        self._count("undelivered" if not receipt.ok else "failed" if error else "answered")

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.totals, name, getattr(self.totals, name) + 1)


def _is_topic_name(topic: str) -> bool:
    try:
        check_topic_name(topic)
    except MqttkitError:
        return False
    return True
