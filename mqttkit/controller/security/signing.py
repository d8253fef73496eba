"""Signed messages: JWS in its compact form (RFC 7515, 7.1) over the exact bytes, bound to one topic.

The protected header contains the algorithm, the key identifier, the topic, the time and a nonce. The signature
covers all of them.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import CompactSignature, JWSRegistry

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.security.keys import Key, KeyFile, KeyRing

MAX_BYTES = 256 * 1024
"""Largest signed message that is accepted, bytes."""
MAX_HEADER = 2_048
"""Largest protected header, characters of base64."""
_NONCE_BYTES = 16
_TYPE = "mqttkit-controller"
_LAST_MOMENT = 253_402_300_800.0
"""The year 10000, seconds since the epoch."""
_NAMES = ("alg", "kid", "typ", "topic", "nonce")


@dataclass(frozen=True)
class Verified:
    """The content of a message whose signature is valid."""

    data: bytes
    """The bytes that were signed: an envelope."""
    nonce: bytes
    """16 random bytes of this signature; a copy of the message has the same."""
    key: Key
    """The key that signed."""
    signed_at: float
    """When it was signed, by the signer's clock: seconds since the epoch. A retry is signed again."""


def sign(data: bytes, topic: str, key: Key, *, now: float | None = None) -> bytes:
    """Return `data` signed for `topic` at `now` (seconds since the epoch), as ASCII text of three parts."""
    nonce = _encode(os.urandom(_NONCE_BYTES)).decode()
    header: dict[str, Any] = {"alg": key.algorithm, "kid": key.kid, "typ": _TYPE, "topic": topic, "nonce": nonce}
    header |= {"iat": round(time.time() if now is None else now, 3)}
    return jws.serialize_compact(header, data, key.material, registry=_registry(key.algorithm)).encode()


def verify(signed: bytes, topic: str, keys: KeyRing | KeyFile, *, max_bytes: int = MAX_BYTES) -> Verified:
    """Return the signed content; raise MessageRefused with the reason.

    Size and form are checked before anything is parsed; the comparison takes constant time.
    """
    if len(signed) > max_bytes:
        raise MessageRefused(MessageRefusal.TOO_LARGE, f"{len(signed)} bytes, the limit is {max_bytes}")
    found = _extract(signed)
    header, nonce = _header(found.protected)
    key = _find(header["kid"], keys)
    if header["alg"] != key.algorithm:
        text = f"key {key.kid!r} is for {key.algorithm}, the message says {header['alg'][:20]!r}"
        raise MessageRefused(MessageRefusal.BAD_SIGNATURE, text)
    try:
        holds = jws.validate_compact(found, key.material, registry=_registry(key.algorithm))
    except (JoseError, ValueError):
        holds = False
    if not holds:
        raise MessageRefused(MessageRefusal.BAD_SIGNATURE, f"the signature with key {key.kid!r} is invalid")
    if header["topic"] != topic:
        text = f"signed for topic {header['topic'][:200]!r}, received on {topic[:200]!r}"
        raise MessageRefused(MessageRefusal.WRONG_TOPIC, text)
    return Verified(found.payload, nonce, key, header["iat"])


def _extract(signed: bytes) -> CompactSignature:
    """Return the parts of a message before verification; raise MessageRefused (malformed)."""
    try:
        found = jws.extract_compact(signed, registry=_registry("HS256"))
    except (JoseError, ValueError, RecursionError) as error:
        raise MessageRefused(MessageRefusal.MALFORMED, "not a JWS in compact form") from error
    return found


def _header(header: object) -> tuple[dict[str, Any], bytes]:
    """Return the protected header and its nonce before verification; raise MessageRefused (malformed)."""
    if not isinstance(header, dict) or any(not isinstance(header.get(name), str) for name in _NAMES):
        raise MessageRefused(MessageRefusal.MALFORMED, "the header lacks alg, kid, typ, topic or nonce")
    signed_at = header.get("iat")
    if isinstance(signed_at, bool) or not isinstance(signed_at, int | float) or not 0 <= signed_at < _LAST_MOMENT:
        raise MessageRefused(MessageRefusal.MALFORMED, "the header lacks iat, the time of signing")
    if len(header) != len(_NAMES) + 1 or header["typ"] != _TYPE:
        raise MessageRefused(MessageRefusal.MALFORMED, "the header belongs to another kind of message")
    if not header["nonce"].isascii():
        raise MessageRefused(MessageRefusal.MALFORMED, "the nonce is not base64url")
    nonce = _decode(header["nonce"].encode())
    if len(nonce) != _NONCE_BYTES:
        raise MessageRefused(MessageRefusal.MALFORMED, "the nonce is not 16 bytes")
    return header, nonce


def _find(kid: str, keys: KeyRing | KeyFile) -> Key:
    if isinstance(keys, KeyRing):
        return keys.verifying_key(kid)
    ring = keys.ring
    return (ring if kid in ring.keys else keys.refresh()).verifying_key(kid)


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    """Decode base64url; accept only the canonical form, so that no changed text decodes to the same value."""
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise MessageRefused(MessageRefusal.MALFORMED, "not base64url") from error
    if _encode(data) != text:
        raise MessageRefused(MessageRefusal.MALFORMED, "not canonical base64url")
    return data


@cache
def _registry(algorithm: str) -> JWSRegistry:
    """Return a registry that allows only this algorithm; the caller checks sizes."""
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = MAX_HEADER
    # The caller checks the size; the largest setting is 64 MiB, so any limit from there on does.
    registry.max_payload_length = 64 * 1024 * 1024  # pragma: no mutate
    return registry
