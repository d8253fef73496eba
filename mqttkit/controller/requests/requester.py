"""The side that asks: it sends a request to one run of a controller and waits for the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.requests.peers import PeerRun, PeerRuns
from mqttkit.controller.requests.types import AnswerPayload, RequestPayload, RequestRefused, parse_answer
from mqttkit.controller.transports.types import Promise
from mqttkit.errors import RequestFailed

VOID = "void"
"""Reason of an answer: the request was meant for an earlier run or connection, and was not carried out."""


@dataclass
class _Wait:
    """A request that waits for its answer."""

    address: str
    answered: threading.Event = field(default_factory=threading.Event)
    answer: AnswerPayload | None = None


class RequestSender:
    """Sends requests. Any thread may call `ask`, except the receiver's, which brings the answers."""

    def __init__(self, send: Callable[[str, RequestPayload, float], tuple[str, Promise]], peers: PeerRuns) -> None:
        """`send` publishes a request for an address before a moment; it returns the message_id and a promise."""
        self._send = send
        self._peers = peers
        self._waits: dict[str, _Wait] = {}
        self._lock = threading.Lock()

    def ask(self, address: str, type_: str, payload: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        """Return the payload of the answer.

        Raises RequestRefused if the addressee refuses the request, and RequestFailed if it is offline or does not
        answer within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        before: PeerRun | None = None
        while True:
            run = self._peers.wait(address, deadline, other_than=before)
            if run is None:
                raise RequestFailed(f"no heartbeat of {address} arrived within {timeout:g} s", hint=_WATCH)
            if run.state == "offline":
                raise RequestFailed(f"{address} is offline", hint=_WATCH)
            answer = self._ask_run(address, run, type_, payload, deadline, timeout)
            if not answer.reason:
                return answer.payload
            if answer.reason != VOID:
                raise RequestRefused(answer.reason, f"{address} refused {type_!r}: {answer.message or answer.reason}")
            before = run

    def receive(self, envelope: Envelope) -> None:
        """Take a verified answer. Does not block. Raises MessageRefused."""
        answer = parse_answer(envelope.payload)
        with self._lock:
            waiting = self._waits.get(answer.request)
            if waiting is not None and waiting.address == envelope.sender_id:
                waiting.answer = answer
                waiting.answered.set()

    def _ask_run(
        self, address: str, run: PeerRun, type_: str, payload: Mapping[str, Any], deadline: float, timeout: float
    ) -> AnswerPayload:
        left = deadline - time.monotonic()
        expires = time.time_ns() // 1_000_000 + max(1, int(left * 1_000))
        request = RequestPayload(type_, run.incarnation, run.connection, expires, payload)
        waiting = _Wait(address)
        with self._lock:  # the answer waits for this lock, so it finds the entry
            message_id, promise = self._send(address, request, deadline)
            self._waits[message_id] = waiting
        try:
            waiting.answered.wait(max(0.0, left))
        finally:
            with self._lock:
                del self._waits[message_id]
        if waiting.answer is not None:
            return waiting.answer
        if promise.done and not promise.ok:
            raise RequestFailed(f"the request to {address} was not sent: {promise.reason or 'no transport took it'}")
        taken = f"; {promise.taken_by} had taken the request" if promise.taken_by else "; no transport took the request"
        raise RequestFailed(f"{address} did not answer {type_!r} within {timeout:g} s{taken}", hint=_WATCH)


_WATCH = "Is it running? See: mqttkit controller watch"
