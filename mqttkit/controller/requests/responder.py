"""The side that answers: it checks requests, carries each out at most once, and answers."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.requests.requester import VOID
from mqttkit.controller.requests.types import (
    AnswerPayload,
    ControllerRequest,
    RequestHandler,
    RequestPayload,
    RequestRefused,
    parse_request,
)
from mqttkit.controller.security.gate import OpenedMessage
from mqttkit.controller.security.keys import ROLES, Key
from mqttkit.errors import MqttkitError, UsageError

log = logging.getLogger(__name__)

WAITING = 1_000
"""Requests that may wait for the handlers; more are refused."""


@dataclass(frozen=True)
class _Task:
    """A request that is committed and waits for its handler."""

    message_id: str
    sender_id: str
    key: Key | None
    content: RequestPayload
    deadline: float
    """By the monotonic clock."""


class RequestDesk:
    """Handlers by request type, and a thread that runs them one at a time.

    The receiver calls `take` before its commit, and `send` or `clear` after it. So a request runs only once it can no
    longer be handled again. A crash in between loses it, and the requester times out.
    """

    def __init__(
        self,
        answer: Callable[[str, AnswerPayload, float], None],
        current_run: Callable[[], tuple[str, int]],
        region: str,
    ) -> None:
        """`answer` sends an answer to a controller before a moment; `current_run` is incarnation and connection."""
        self.counters: Counter[str] = Counter()
        """Requests by outcome: answered, refused, expired."""
        self._answer, self._current_run, self._region = answer, current_run, region
        self._handlers: dict[str, tuple[RequestHandler, frozenset[str]]] = {}
        self._open: list[_Task] = []
        self._queue: queue.Queue[_Task | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._lock = threading.Lock()
        self._closed = False

    def register(self, type_: str, handler: RequestHandler, roles: Sequence[str] = ROLES) -> None:
        """Let `handler` answer requests of a type from these roles; raise UsageError for an unknown role."""
        unknown = set(roles) - set(ROLES)
        if unknown:
            raise UsageError(f"no role {min(unknown)!r}: use {', '.join(ROLES)}")
        self._handlers[type_] = (handler, frozenset(roles))

    def take(self, opened: OpenedMessage) -> None:
        """Take a verified request, in the receiver's thread; raise MessageRefused (malformed)."""
        content = parse_request(opened.envelope.payload)
        left = content.expires / 1000 - time.time()
        name, sender = opened.envelope.message_id, opened.envelope.sender_id
        self._open.append(_Task(name, sender, opened.key, content, time.monotonic() + left))

    def clear(self) -> None:
        """Forget the requests of a batch that is undone."""
        self._open.clear()

    def send(self) -> None:
        """Pass the requests of a committed batch to the handlers."""
        tasks, self._open = self._open, []
        if tasks and self._thread.ident is None:
            with self._lock:
                if self._thread.ident is None and not self._closed:
                    self._thread.start()
        for task in tasks:
            try:
                self._queue.put_nowait(task)
            except queue.Full:
                self._reply(task, AnswerPayload(task.message_id, reason="busy", message="too many requests wait"))

    def close(self) -> None:
        """End after the handler that runs now; requests that wait are dropped."""
        with self._lock:
            self._closed = True
        if self._thread.ident is not None:
            while True:
                try:
                    self._queue.put_nowait(None)
                    break
                except queue.Full:
                    self._queue.get_nowait()
            if self._thread is not threading.current_thread():
                self._thread.join(10)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None and not self._closed:
            if time.monotonic() >= task.deadline:
                self.counters["expired"] += 1
                continue
            self._reply(task, self._carry_out(task))

    def _carry_out(self, task: _Task) -> AnswerPayload:
        """Return the answer; an exception of the handler becomes an answer."""
        content = task.content
        try:
            handler = self._authorise(task)
            asked = ControllerRequest(
                content.type, task.sender_id, task.key.role if task.key else None, content.payload
            )
            return AnswerPayload(task.message_id, handler(asked) or {})
        except RequestRefused as error:
            return AnswerPayload(task.message_id, reason=error.reason, message=error.message)
        except MessageRefused as error:
            return AnswerPayload(task.message_id, reason=error.reason.value, message=error.message)
        except (Exception, SystemExit) as error:
            log.warning("the handler of request %r failed: %r", content.type, error, exc_info=True)
            return AnswerPayload(task.message_id, reason="failed", message=f"{type(error).__name__}: {error}")

    def _authorise(self, task: _Task) -> RequestHandler:
        """Return the handler; raise RequestRefused."""
        content, key = task.content, task.key
        if (content.incarnation, content.connection) != self._current_run():
            raise RequestRefused(VOID, "the request was meant for an earlier run or connection of this controller")
        found = self._handlers.get(content.type)
        if found is None:
            raise RequestRefused("unknown_type", f"no handler for requests of type {content.type[:100]!r}")
        handler, roles = found
        if key is not None and not key.is_shared:
            whose = " ".join(part for part in (key.role, key.region) if part) or "no role"
            if key.role not in roles or key.region not in (None, self._region):
                raise RequestRefused("not_allowed", f"key {key.kid!r} ({whose}) may not request {content.type!r}")
        return handler

    def _reply(self, task: _Task, answer: AnswerPayload) -> None:
        self.counters["refused" if answer.reason else "answered"] += 1
        try:
            self._answer(task.sender_id, answer, task.deadline)
        except MqttkitError as error:
            log.warning("cannot answer request %s of %s: %s", task.message_id, task.sender_id, error)
        except Exception:
            log.exception("cannot answer request %s of %s", task.message_id, task.sender_id)
