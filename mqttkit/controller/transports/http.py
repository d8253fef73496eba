"""HTTP as a transport, client side: posts messages to a hub and polls it."""

from __future__ import annotations

import base64
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from mqttkit.client.transport.tls import make_context
from mqttkit.controller.transports.types import Promise, Receive, ReceivedMessage, Ticket, settled
from mqttkit.errors import MqttkitError, TopicError
from mqttkit.settings import TlsSettings
from mqttkit.topics import check_topic_name

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
HANDLE_SECONDS = 30.0
"""Seconds that the controller has to handle the messages of one poll."""
_PATH = "/v1/messages"
_POSTERS = 4
_QUEUE = 1_000


class HttpTransport:
    """One controller's connection to a hub. Available while the hub answers."""

    name = "http"

    def __init__(
        self,
        url: str,
        *,
        poll_seconds: float = 1.0,
        tls: TlsSettings | None = None,
        sign: Callable[[str], str] = lambda _path: "",
    ) -> None:
        """`tls` is for an https URL; `sign` returns a token for a path."""
        self.url = url.rstrip("/")
        self._poll_seconds = poll_seconds
        self._tls, self._sign = tls, sign
        self._again = False
        """True if the next poll may fetch the same bytes again."""
        self._failure = ""
        """The last failure that was logged."""
        self._filters: list[str] = []
        self._new_filters: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._cursor = ""
        self._stop = threading.Event()
        self._up = False
        self._jobs: queue.Queue[tuple[str, bytes, bool, Promise] | None] = queue.Queue(_QUEUE)
        self._threads: list[threading.Thread] = []
        self._receive: Receive | None = None
        self._wake: Callable[[], None] = lambda: None
        self._pool: Any = None

    @property
    def available(self) -> bool:
        """True if the hub answered the last request."""
        return self._up

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Start polling."""
        import urllib3

        self._receive, self._wake = receive, wake
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
        context = make_context(self._tls or TlsSettings()) if self.url.startswith("https://") else None
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False, maxsize=_POSTERS + 1, ssl_context=context)
        targets = [self._poll] + [self._post_all] * _POSTERS
        for number, target in enumerate(targets):
            self._threads.append(threading.Thread(target=target, name=f"http-{number}", daemon=True))
        for thread in self._threads:
            thread.start()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Add a filter to the poll; the next poll returns its retained messages."""
        self._new_filters.put(topic_filter)

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Queue a message for posting; the hub accepts it with the status 204."""
        if self._stop.is_set():
            return settled(False)
        promise = Promise()
        try:
            self._jobs.put_nowait((topic, data, retain, promise))
        except queue.Full:
            promise.settle(False)
        return promise

    def close(self) -> None:
        """Post the queued messages while the hub answers, then end the threads; the rest fails."""
        self._stop.set()
        for _ in range(_POSTERS):
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(ANSWER_SECONDS + CONNECT_SECONDS)
        if self._pool is not None:
            self._pool.clear()

    def _post_all(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            topic, data, retain, promise = job
            try:
                promise.settle(self._post(topic, data, retain))
                self._wake()
            except Exception:
                log.exception("cannot post a message on %s", topic)
                promise.settle(False)

    def _post(self, topic: str, data: bytes, retain: bool) -> bool:
        if self._stop.is_set() and not self._up:
            return False
        return self._request("POST", {"topic": topic, "retain": str(int(retain))}, data) is not None

    def _poll(self) -> None:
        while not self._stop.is_set():
            try:
                self._poll_once()
            except Exception:
                log.exception("cannot poll %s", self.url)
            self._stop.wait(self._poll_seconds)

    def _poll_once(self) -> None:
        """Fetch the retained messages of new filters, then the new messages of all filters."""
        while not self._new_filters.empty():
            wanted = self._new_filters.get()
            cursor = self._ask([wanted], "")
            if cursor is None:
                self._new_filters.put(wanted)
                return
            self._filters.append(wanted)
            self._cursor = self._cursor or cursor
        self._cursor = self._ask(self._filters, self._cursor) or self._cursor

    def _ask(self, filters: list[str], after: str) -> str | None:
        """Pass on the messages in the hub's answer and return its cursor; None without a good answer."""
        body = self._request("GET", [*(("filter", one) for one in filters), ("after", after)])
        if body is None:
            return None
        try:
            answer = json.loads(body)
            found = [_message(one) for one in answer["messages"]]
            cursor = str(answer["cursor"])
        except (ValueError, KeyError, TypeError, RecursionError, TopicError) as error:
            log.warning("%s is not a hub: %s", self.url, error)
            self._set_up(False)
            return None
        self._set_up(True)
        if found and self._receive is not None and not self._hand_over(self._receive, found):
            return None
        return cursor

    def _hand_over(self, receive: Receive, found: list[tuple[str, bytes]]) -> bool:
        """Pass messages on and wait until all are handled; without that, the next poll fetches them again."""
        handled = threading.Semaphore(0)
        receive([ReceivedMessage(topic, data, self.name, self._again, ack=handled.release) for topic, data in found])
        deadline = time.monotonic() + HANDLE_SECONDS
        pending = len(found)
        while pending and time.monotonic() < deadline and not self._stop.is_set():
            pending -= handled.acquire(timeout=0.2)
        complete = pending == 0
        if not complete:
            log.warning(
                "not all messages of %s were handled within %.0f s; polling them again", self.url, HANDLE_SECONDS
            )
        self._again = not complete
        return complete

    def _request(self, method: str, fields: object, data: bytes | None = None) -> bytes | None:
        """Return the body of a good answer; otherwise log the failure if it is new, and return None."""
        from urllib.parse import urlencode

        from urllib3.exceptions import HTTPError

        url = f"{self.url}{_PATH}?{urlencode(fields)}"  # type: ignore[arg-type]  # pairs or a mapping
        try:
            token = self._sign(_PATH) if method == "GET" else ""
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = self._pool.request(method, url, body=data, headers=headers)
        except (HTTPError, MqttkitError) as error:
            self._fail(f"cannot reach the HTTP hub {self.url}: {_cause(error)}")
            return None
        if answer.status >= 300:
            text = f"the HTTP hub {self.url} answered {answer.status}: {answer.data[:200].decode(errors='replace')}"
            if answer.status >= 500 or method == "GET":
                self._fail(text)
            else:
                log.warning("%s", text)
            return None
        self._failure = ""
        return bytes(answer.data)

    def _fail(self, failure: str) -> None:
        """Log a failure once, until the hub answers or fails in another way."""
        if failure != self._failure:
            self._failure = failure
            log.warning("%s", failure)
        self._set_up(False)

    def _set_up(self, up: bool) -> None:
        changed, self._up = self._up is not up, up
        if changed:
            self._wake()


def _cause(error: Exception) -> str:
    """Return the innermost cause of an error of urllib3, in one line."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__) is not None and isinstance(inner, Exception):
        cause = inner
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return re.sub(r"^\[[^]]*\] |^<[^>]*>: | \(_ssl\.c:\d+\)$", "", str(text))


def _message(entry: dict[str, str]) -> tuple[str, bytes]:
    """Return topic and bytes of one message in an answer; raise an error if it is invalid."""
    topic = entry["topic"]
    if not isinstance(topic, str):
        raise TypeError("a topic must be text")
    return check_topic_name(topic), base64.b64decode(entry["data"], validate=True)
