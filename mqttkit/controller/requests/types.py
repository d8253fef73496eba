"""What a request and its answer contain, and how their payloads are checked. Pure.

A request names the run and the connection of its addressee, as the addressee's last heartbeat shows them:
`{"type", "incarnation", "connection", "expires", "payload"}`. After a restart or a reconnect it is void, even if
the broker has kept it. The answer is `{"request", "ok", "payload"}` or `{"request", "ok", "reason", "message"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.errors import RequestFailed


@dataclass(frozen=True)
class ControllerRequest:
    """A request, as its handler gets it."""

    type: str
    """Such as `ping`, or `PREFIX.NAME` for a type of the application."""
    sender_id: str
    """Who asks; the signature is verified."""
    role: str | None
    """Role of the key that signed; None for a shared key, and without signatures."""
    payload: Mapping[str, Any] = field(default_factory=dict)


RequestHandler = Callable[[ControllerRequest], Mapping[str, Any] | None]
"""Returns the payload of the answer. If it raises, the answer is an error with the exception's text."""


class RequestRefused(RequestFailed):
    """The addressee does not carry out a request; `reason` is one word, and a handler may raise it."""

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


@dataclass(frozen=True)
class RequestPayload:
    """The checked payload of a request."""

    type: str
    incarnation: str
    connection: int
    expires: int
    """Milliseconds since the epoch, by the requester's clock."""
    payload: Mapping[str, Any]

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of its message."""
        return {
            **{"type": self.type, "incarnation": self.incarnation, "connection": self.connection},
            **{"expires": self.expires, "payload": dict(self.payload)},
        }


@dataclass(frozen=True)
class AnswerPayload:
    """The checked payload of an answer."""

    request: str
    """The message_id of the request."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Why the addressee did not carry it out, in one word; empty if it did."""
    message: str = ""
    """The same for people."""

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of its message."""
        if self.reason:
            return {"request": self.request, "ok": False, "reason": self.reason, "message": self.message}
        return {"request": self.request, "ok": True, "payload": dict(self.payload)}


def parse_request(payload: Mapping[str, Any]) -> RequestPayload:
    """Return the request in a payload; raise MessageRefused (malformed)."""
    kinds = {"type": str, "incarnation": str, "connection": int, "expires": int, "payload": dict}
    _check(payload, kinds, "request")
    return RequestPayload(**{name: payload[name] for name in kinds})


def parse_answer(payload: Mapping[str, Any]) -> AnswerPayload:
    """Return the answer in a payload; raise MessageRefused (malformed)."""
    _check(payload, {"request": str, "ok": bool}, "answer")
    if payload["ok"]:
        _check(payload, {"payload": dict}, "answer")
        return AnswerPayload(payload["request"], payload["payload"])
    _check(payload, {"reason": str, "message": str}, "answer")
    return AnswerPayload(payload["request"], reason=payload["reason"] or "error", message=payload["message"])


def _check(payload: Mapping[str, Any], kinds: Mapping[str, type], what: str) -> None:
    wrong = [name for name, kind in kinds.items() if type(payload.get(name)) is not kind]
    if wrong:
        text = f"{what}: `{wrong[0]}` is missing or has the wrong type"
        raise MessageRefused(MessageRefusal.MALFORMED, text)
