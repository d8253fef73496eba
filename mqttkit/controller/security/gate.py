"""The gate decides which messages a controller accepts: signature, freshness, duplicates."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mqttkit.controller.messages.envelope import Envelope, parse
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Kind, Place, check_place
from mqttkit.controller.security.authority import check_authority
from mqttkit.controller.security.keys import Key, KeyFile, KeyRing
from mqttkit.controller.security.signing import MAX_BYTES, sign, verify
from mqttkit.controller.store import Novelty, Store

SKEW_SECONDS = 300.0
"""Allowed clock skew in either direction."""

_SIGNATURE_BYTES = 1_024
"""More bytes than the header and the signature need in addition to the topic."""

STATELESS = frozenset({Kind.STATUS, Kind.RECEIPT, Kind.ANSWER})
"""Messages that the store does not remember: their content tells an old copy from a new one."""


@dataclass(frozen=True)
class OpenedMessage:
    """A message whose signature was verified and whose envelope was parsed."""

    envelope: Envelope
    digest: bytes
    """SHA-256 of the envelope's bytes."""
    nonce: bytes | None
    """Nonce of the signature; None for an unsigned message."""
    signed_digest: bytes = b""
    """SHA-256 of the signed bytes."""
    sent_at: float | None = None
    """When it was signed, seconds since the epoch; None for an unsigned message."""
    key: Key | None = None
    """The key that signed; None for an unsigned message."""


class Codec(Protocol):
    """Converts envelopes to bytes for the wire and back."""

    signs: bool
    """True if it signs and dates each message when it leaves."""

    def time(self) -> float:
        """Return the time by the clock that dates signatures, seconds since the epoch."""
        ...

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Return the bytes to publish on `topic`; sign again for each try."""
        ...

    def wrap_bytes(self, envelope: bytes, topic: str, sender_id: str) -> bytes:
        """Do the same with an envelope that is JSON already."""
        ...

    def check_size(self, envelope: bytes, topic: str, sender_id: str) -> None:
        """Raise MessageRefused if the bytes to publish will be larger than receivers take."""
        ...

    def unwrap(self, data: bytes, topic: str) -> OpenedMessage:
        """Return the envelope in bytes received on `topic`; raise MessageRefused."""
        ...

    def signer_id(self, sender_id: str) -> str:
        """Return the identifier of the key that signs for this sender now; raise UsageError if there is none."""
        ...

    def sign_request(self, sender_id: str, path: str) -> str:
        """Return a token that proves to the hub who asks for `path`, or an empty string; raise UsageError."""
        ...

    def check_request(self, token: str, path: str, *, skew: float) -> None:
        """Raise MessageRefused if the token does not allow the request for `path`."""
        ...


class SignedCodec:
    """Signs envelopes, and opens only those signed with a key that the ring accepts."""

    signs = True

    def __init__(
        self, keys: KeyRing | KeyFile, *, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self.keys = keys
        self.max_bytes = max_bytes

    def time(self) -> float:
        """Return the time, seconds since the epoch."""
        return self._now()

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Sign with the active key; raise UsageError without one, MessageRefused if the message is too large."""
        return self.wrap_bytes(envelope.to_bytes(), topic, envelope.sender_id)

    def wrap_bytes(self, envelope: bytes, topic: str, sender_id: str) -> bytes:
        """Sign the JSON of an envelope."""
        signed = sign(envelope, topic, self._signer(sender_id), now=self._now())
        _check_size(signed, self.max_bytes)
        return signed

    def check_size(self, envelope: bytes, topic: str, sender_id: str) -> None:
        """Raise MessageRefused if the signed message will be too large. Signs only near the limit."""
        if 2 * (len(envelope) + len(topic)) + _SIGNATURE_BYTES > self.max_bytes:
            self.wrap_bytes(envelope, topic, sender_id)

    def signer_id(self, sender_id: str) -> str:
        """Return the identifier of the active key; raise UsageError if there is none."""
        return self._signer(sender_id).kid

    def sign_request(self, sender_id: str, path: str) -> str:
        """Sign the path and the time; raise UsageError if there is no active key."""
        return sign(b"", f"GET {path}", self._signer(sender_id), now=self._now()).decode()

    def check_request(self, token: str, path: str, *, skew: float) -> None:
        """Raise MessageRefused if no accepted key signed the token for this path, or not within the clock skew."""
        verified = verify(token.encode(errors="replace"), f"GET {path}", self.keys)
        if abs(self._now() - verified.signed_at) > skew:
            raise MessageRefused(MessageRefusal.EXPIRED, f"the token was not signed within {skew:.0f} s")

    def _signer(self, sender_id: str) -> Key:
        ring = self.keys.ring if isinstance(self.keys, KeyFile) else self.keys
        return ring.signer(sender_id)

    def unwrap(self, data: bytes, topic: str) -> OpenedMessage:
        """Verify, then parse."""
        verified = verify(data, topic, self.keys, max_bytes=self.max_bytes)
        envelope = parse(verified.data)
        digest = hashlib.sha256(verified.data).digest()
        return OpenedMessage(
            envelope, digest, verified.nonce, hashlib.sha256(data).digest(), verified.signed_at, verified.key
        )


class PlainCodec:
    """Leaves envelopes unsigned: for brokers whose access rules are enough."""

    signs = False

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes

    def time(self) -> float:
        """Return the time, seconds since the epoch."""
        return time.time()

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Return the envelope's JSON; raise MessageRefused if it is too large."""
        return self.wrap_bytes(envelope.to_bytes(), topic, envelope.sender_id)

    def wrap_bytes(self, envelope: bytes, topic: str, sender_id: str) -> bytes:
        """Return the envelope if it is not too large."""
        _check_size(envelope, self.max_bytes)
        return envelope

    def check_size(self, envelope: bytes, topic: str, sender_id: str) -> None:
        """Raise MessageRefused if the envelope is too large."""
        _check_size(envelope, self.max_bytes)

    def signer_id(self, sender_id: str) -> str:
        """Return the same text each time: nothing is signed."""
        return "unsigned"

    def sign_request(self, sender_id: str, path: str) -> str:
        """Return an empty token."""
        return ""

    def check_request(self, token: str, path: str, *, skew: float) -> None:
        """Allow every request."""

    def unwrap(self, data: bytes, topic: str) -> OpenedMessage:
        """Parse a message within the size limit."""
        _check_size(data, self.max_bytes)
        return OpenedMessage(parse(data), hashlib.sha256(data).digest(), None)


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise MessageRefused(MessageRefusal.TOO_LARGE, f"{len(data)} bytes, the limit is {limit}")


def open_message(codec: Codec, place: Place, data: bytes) -> OpenedMessage:
    """Return a message whose signature, form, topic and authority are good; raise MessageRefused."""
    opened = codec.unwrap(data, place.topic)
    check_place(place, opened.envelope)
    if opened.key is not None:
        check_authority(opened.key, place, opened.envelope)
    return opened


class Gate:
    """Decides on each message; `admit` saves accepted messages in the store."""

    def __init__(
        self,
        codec: Codec,
        store: Store,
        *,
        skew: float = SKEW_SECONDS,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec = codec
        self.store = store
        self.skew = skew
        self._now, self._monotonic = now, monotonic
        # The window is closed, so its start does not matter.
        self._delayed_window = (0.0, float("-inf"))  # pragma: no mutate

    def expect_delayed(self, since: float, seconds: float) -> None:
        """For this many seconds, accept messages signed at `since` (seconds since the epoch) or later at any age.

        For a controller that was away: the broker kept messages for it that are no longer fresh. `seconds` must be
        less than the time for which the store remembers nonces. Any thread may call this.
        """
        self._delayed_window = (since - self.skew, self._monotonic() + seconds)

    def open(self, place: Place, data: bytes, *, dup: bool) -> tuple[OpenedMessage, Novelty]:
        """Return the message and whether it is new; raise MessageRefused."""
        opened = open_message(self.codec, place, data)
        return opened, self.judge(place, opened, dup=dup)

    def judge(self, place: Place, opened: OpenedMessage, *, dup: bool) -> Novelty:
        """Return whether an opened message is new; raise MessageRefused.

        `dup` is the DUP flag: the same bytes are a redelivery with it (MQTT 5, 3.3.1.1) and a replay without it.
        Policies have versions, heartbeats sequences, and a receipt or an answer names the messages that wait for it;
        so all are new.
        """
        if place.kind in STATELESS | {Kind.POLICY}:
            return Novelty.NEW
        return self.judge_once(opened, dup=dup)

    def judge_once(self, opened: OpenedMessage, *, dup: bool) -> Novelty:
        """Return whether a message was seen before; raise MessageRefused if it is not fresh, or a replay."""
        self._check_fresh(opened)
        seen = self.store.look_up(opened.envelope.message_id, opened.digest)
        if seen is Novelty.OTHER:
            raise MessageRefused(
                MessageRefusal.CONFLICT, f"message {opened.envelope.message_id} was seen before with different content"
            )
        self._check_nonce(opened, dup=dup)
        return seen

    def admit(self, opened: OpenedMessage, seen: Novelty) -> None:
        """Remember an accepted and handled message, and the nonce of this copy."""
        if seen is Novelty.NEW:
            self.store.remember(opened.envelope.message_id, opened.digest)
        if opened.nonce is not None and self.store.look_up_nonce(opened.nonce, opened.signed_digest) is Novelty.NEW:
            self.store.remember_nonce(opened.nonce, opened.signed_digest)

    def _check_fresh(self, opened: OpenedMessage) -> None:
        sent_at = opened.envelope.timestamp / 1000 if opened.sent_at is None else opened.sent_at
        age = self._now() - sent_at
        since, until = self._delayed_window
        if age > self.skew and not (sent_at >= since and self._monotonic() < until):
            raise MessageRefused(MessageRefusal.EXPIRED, f"{age:.0f} s old, the limit is {self.skew:.0f} s")
        if age < -self.skew:
            text = f"{-age:.0f} s ahead of this clock, the limit is {self.skew:.0f} s"
            raise MessageRefused(MessageRefusal.SKEWED, text)

    def _check_nonce(self, opened: OpenedMessage, *, dup: bool) -> None:
        if opened.nonce is None:
            return
        seen = self.store.look_up_nonce(opened.nonce, opened.signed_digest)
        if seen is Novelty.OTHER:
            raise MessageRefused(MessageRefusal.CONFLICT, "a nonce was seen before with different content")
        if seen is Novelty.SAME and not dup:
            raise MessageRefused(
                MessageRefusal.REPLAYED, f"message {opened.envelope.message_id} was published again with the same bytes"
            )
