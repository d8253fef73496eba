"""The gate: which messages a controller lets in. Signature, freshness, duplicates, policy versions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mqttkit.controller.messages.envelope import Envelope, parse
from mqttkit.controller.messages.refusals import MessageRefused, Reason
from mqttkit.controller.messages.topics import Kind, Place, check_place
from mqttkit.controller.security.keys import KeyFile, KeyRing
from mqttkit.controller.security.signing import MAX_BYTES, sign, verify
from mqttkit.controller.store import Seen, Store

SKEW_SECONDS = 300.0
"""Clock skew allowed, either way."""


@dataclass(frozen=True)
class Opened:
    """A message out of its wrapping."""

    envelope: Envelope
    digest: bytes
    """SHA-256 of the envelope's bytes."""
    nonce: bytes | None
    """Nonce of the signing; None where messages are not signed."""
    signed_digest: bytes = b""
    """SHA-256 of the signed bytes."""
    sent_at: float | None = None
    """When it was signed, seconds since the epoch; None where messages are not signed."""


class Codec(Protocol):
    """How an envelope is wrapped for the wire."""

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Return the bytes to publish on `topic`; each call gives new bytes for a new try."""
        ...

    def unwrap(self, data: bytes, topic: str) -> Opened:
        """Return the envelope in bytes that came on `topic`; raise MessageRefused."""
        ...


class SignedCodec:
    """Envelopes are signed, and only those of believed keys are opened."""

    def __init__(
        self, keys: KeyRing | KeyFile, *, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self.keys = keys
        self.max_bytes = max_bytes

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Sign with the key that is active now; raise UsageError where there is none."""
        ring = self.keys.ring if isinstance(self.keys, KeyFile) else self.keys
        return sign(envelope.to_bytes(), topic, ring.signer(), now=self._now())

    def unwrap(self, data: bytes, topic: str) -> Opened:
        """Verify, then parse; a key that belongs to one sender opens only that sender's messages."""
        verified = verify(data, topic, self.keys, max_bytes=self.max_bytes)
        envelope = parse(verified.data)
        owner = verified.key.owner
        if owner is not None and owner != envelope.sender_id:
            text = f"key {verified.key.kid!r} belongs to {owner!r}, the message is of {envelope.sender_id!r}"
            raise MessageRefused(Reason.WRONG_SENDER, text)
        digest = hashlib.sha256(verified.data).digest()
        return Opened(envelope, digest, verified.nonce, hashlib.sha256(data).digest(), verified.signed_at)


class PlainCodec:
    """Envelopes travel as they are: for a broker whose own access rules are trusted."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes

    def wrap(self, envelope: Envelope, topic: str) -> bytes:
        """Return the envelope's JSON."""
        return envelope.to_bytes()

    def unwrap(self, data: bytes, topic: str) -> Opened:
        """Parse, within the size limit."""
        if len(data) > self.max_bytes:
            raise MessageRefused(Reason.TOO_LARGE, f"{len(data)} bytes, the limit is {self.max_bytes}")
        return Opened(parse(data), hashlib.sha256(data).digest(), None)


class Gate:
    """Decides on each message; what it let in is remembered in the store by `admit`."""

    def __init__(
        self,
        codec: Codec,
        store: Store,
        *,
        skew: float = SKEW_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.codec = codec
        self.store = store
        self.skew = skew
        self._now = now
        self._awaited = (0.0, float("-inf"))

    def expect_delayed(self, since: float, seconds: float) -> None:
        """Take messages signed at `since` (seconds since the epoch) or later, however old, for so many seconds.

        For a controller that was away: the broker kept for it what is no longer fresh. `seconds` must be less than
        the store remembers nonces. May be called from any thread.
        """
        self._awaited = (since - self.skew, time.monotonic() + seconds)

    def open(self, place: Place, data: bytes, *, dup: bool) -> tuple[Opened, Seen]:
        """Return the message and whether it is new; raise MessageRefused where it must not be acted upon.

        `dup` is the DUP flag: with it the same bytes are a redelivery (MQTT 5, 3.3.1.1), without it a replay.
        """
        opened = self.codec.unwrap(data, place.topic)
        check_place(place, opened.envelope)
        if place.kind in (Kind.POLICY, Kind.STATUS):
            return opened, Seen.NEW
        self._check_fresh(opened)
        seen = self.store.look_up(opened.envelope.message_id, opened.digest)
        if seen is Seen.OTHER:
            raise MessageRefused(
                Reason.CONFLICT, f"message {opened.envelope.message_id} came before with other content"
            )
        self._check_nonce(opened, dup=dup)
        return opened, seen

    def admit(self, opened: Opened, seen: Seen) -> None:
        """Remember a message that was let in and handled, and the nonce of this copy of it."""
        if seen is Seen.NEW:
            self.store.remember(opened.envelope.message_id, opened.digest)
        if opened.nonce is not None and self.store.look_up_nonce(opened.nonce, opened.signed_digest) is Seen.NEW:
            self.store.remember_nonce(opened.nonce, opened.signed_digest)

    def _check_fresh(self, opened: Opened) -> None:
        sent_at = opened.envelope.timestamp / 1000 if opened.sent_at is None else opened.sent_at
        age = self._now() - sent_at
        since, until = self._awaited
        if age > self.skew and not (sent_at >= since and time.monotonic() < until):
            raise MessageRefused(Reason.EXPIRED, f"{age:.0f} s old, at most {self.skew:.0f} s may be")
        if age < -self.skew:
            text = f"{-age:.0f} s ahead of this clock, at most {self.skew:.0f} s may be"
            raise MessageRefused(Reason.SKEWED, text)

    def _check_nonce(self, opened: Opened, *, dup: bool) -> None:
        if opened.nonce is None:
            return
        seen = self.store.look_up_nonce(opened.nonce, opened.signed_digest)
        if seen is Seen.OTHER:
            raise MessageRefused(Reason.CONFLICT, "a nonce came before with other content")
        if seen is Seen.SAME and not dup:
            raise MessageRefused(Reason.REPLAYED, f"message {opened.envelope.message_id} was published again as it was")
