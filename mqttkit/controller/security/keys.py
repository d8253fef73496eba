"""The key ring: the keys that sign and the keys that verify. A JSON file of JSON Web Keys (RFC 7517), mode 0600."""

from __future__ import annotations

import enum
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.errors import UsageError
from mqttkit.files import make_private_directory, read_bytes, write_secret

if TYPE_CHECKING:
    from joserfc.jwk import OctKey, OKPKey

log = logging.getLogger(__name__)

ALGORITHMS = {"HS256": "oct", "Ed25519": "OKP"}
"""Algorithm to JWK key type. Ed25519 is EdDSA by its fully specified name (RFC 9864)."""
ROLES = ("local", "regional", "global", "operator")
"""Roles that a key can have. An operator's key sends requests and events from the command line."""
KID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECRET_BYTES = 32
_CHECK_SECONDS = 1.0


class KeyStatus(enum.Enum):
    """How a key may be used."""

    ACTIVE = "active"
    """Signs and verifies. Each owner has at most one active key."""
    ACCEPTED = "accepted"
    """Verifies only: a key before its activation, or after it until all senders have changed."""
    RETIRED = "retired"
    """Messages signed with it are refused."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a ring."""

    kid: str
    """Key identifier; every message that it signs names it."""
    algorithm: str
    """`HS256` or `Ed25519`; a message that names a different one is refused."""
    jwk: Mapping[str, str] = field(repr=False)
    """Key material as a JSON Web Key; an Ed25519 key without `d` can verify and not sign."""
    status: KeyStatus = KeyStatus.ACCEPTED
    owner: str | None = None
    """The only sender_id that may use it; None allows every sender."""
    role: str | None = None
    """`local`, `regional`, `global` or `operator`: the role of those who may use it."""
    region: str | None = None
    """Region of a local or regional key."""
    created: int = 0
    """Seconds since the epoch."""
    replaces: str | None = None
    """Identifier of the key that a rotation replaces by this one."""
    retires: int = 0
    """When it stops verifying, seconds since the epoch; 0 for never."""

    @property
    def is_retired(self) -> bool:
        """True if messages signed with it are refused."""
        return self.status is KeyStatus.RETIRED or 0 < self.retires <= time.time()

    @property
    def can_sign(self) -> bool:
        """False for the public half of a key pair."""
        return self.algorithm == "HS256" or "d" in self.jwk

    @property
    def is_shared(self) -> bool:
        """True if the key has neither an owner nor a role: whoever has it may send any message."""
        return self.owner is None and self.role is None

    @cached_property
    def material(self) -> OctKey | OKPKey:
        """The key as an object of the JOSE library."""
        from joserfc.jwk import OctKey, OKPKey

        material: dict[str, str | list[str]] = {**self.jwk}
        if self.algorithm == "HS256":
            shared: OctKey = OctKey.import_key(material)
            return shared
        found: OKPKey = OKPKey.import_key(material)
        return found

    def public(self) -> Key:
        """Return the part that a verifier needs: the public half of a key pair, or the shared secret itself."""
        return replace(self, jwk={name: value for name, value in self.jwk.items() if name != "d"})


@dataclass(frozen=True)
class KeyRing:
    """Keys by identifier. Immutable: each change returns a new ring."""

    keys: Mapping[str, Key] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys.values())

    def verifying_key(self, kid: str) -> Key:
        """Return the key that verifies a message; raise MessageRefused (unknown_key, retired_key)."""
        key = self.keys.get(kid)
        if key is None:
            raise MessageRefused(MessageRefusal.UNKNOWN_KEY, f"the key ring has no key {kid[:64]!r}")
        if key.is_retired:
            raise MessageRefused(MessageRefusal.RETIRED_KEY, f"key {kid!r} is retired")
        return key

    def signer(self, sender_id: str | None = None) -> Key:
        """Return the active key of a sender, else the active key without an owner; raise UsageError without either."""
        active = {key.owner: key for key in self if key.status is KeyStatus.ACTIVE}
        found = active.get(sender_id) or active.get(None)
        if found is not None:
            return found
        whose = f" for {sender_id!r}" if sender_id is not None and active else ""
        hint = "Make one with: mqttkit controller key generate"
        raise UsageError(f"the key ring has no active key{whose}", hint=hint)

    def add(self, key: Key) -> KeyRing:
        """Add a key; raise UsageError if its identifier is in use."""
        if not KID.fullmatch(key.kid):
            raise UsageError(f"key identifier {key.kid[:80]!r}: use 1 to 64 letters, digits, '-', '_' or '.'")
        if key.kid in self.keys:
            raise UsageError(f"the key ring already has a key {key.kid!r}")
        _check_material(key)
        return KeyRing({**self.keys, key.kid: key})

    def activate(self, kid: str) -> KeyRing:
        """Make a key the active one of its owner; the owner's previous one still verifies."""
        key = self._known(kid)
        if key.is_retired or key.retires:
            raise UsageError(f"key {kid!r} is retired and cannot be activated again")
        if not key.can_sign:
            raise UsageError(f"key {kid!r} is a public key: it verifies but cannot sign")
        keys = {
            name: replace(other, status=KeyStatus.ACCEPTED)
            if other.status is KeyStatus.ACTIVE and other.owner == key.owner
            else other
            for name, other in self.keys.items()
        }
        return KeyRing({**keys, kid: replace(key, status=KeyStatus.ACTIVE)})

    def retire(self, kid: str) -> KeyRing:
        """Refuse messages signed with a key from now on; raise UsageError for the active key."""
        key = self._known(kid)
        if key.status is KeyStatus.ACTIVE:
            hint = "Activate another first: mqttkit controller key activate KID"
            raise UsageError(f"key {kid!r} is active", hint=hint)
        return KeyRing({**self.keys, kid: replace(key, status=KeyStatus.RETIRED)})

    def retire_at(self, kid: str, moment: int) -> KeyRing:
        """Refuse messages signed with a key from a moment on; raise UsageError for the active key."""
        key = self.retire(kid).keys[kid]
        return KeyRing({**self.keys, kid: replace(key, status=KeyStatus.ACCEPTED, retires=moment)})

    def for_owner(self, owner: str) -> KeyRing:
        """Return what one controller needs: its signing keys, and the public part of the others.

        Raises UsageError if it has no active key.
        """
        needed = {
            key.kid: key if key.owner in (owner, None) else replace(key.public(), status=KeyStatus.ACCEPTED)
            for key in self
            if not key.is_retired
        }
        ring = KeyRing(needed)
        ring.signer(owner)
        return ring

    def merge(self, other: KeyRing) -> KeyRing:
        """Add the keys of another ring; raise UsageError if one has the identifier of a different key here."""
        ring = self
        for key in other:
            known = self.keys.get(key.kid)
            if known is None:
                ring = ring.add(replace(key, status=KeyStatus.ACCEPTED))
                if key.status is KeyStatus.ACTIVE:
                    ring = ring.activate(key.kid)
            elif known.public().jwk != key.public().jwk or known.owner != key.owner or known.role != key.role:
                raise UsageError(f"the key ring has another key with the identifier {key.kid!r}")
            elif key.can_sign and not known.can_sign:
                ring = KeyRing({**ring.keys, key.kid: replace(known, jwk=key.jwk)})
                ring = ring.activate(key.kid) if key.status is KeyStatus.ACTIVE else ring
        return ring

    def _known(self, kid: str) -> Key:
        if kid not in self.keys:
            names = ", ".join(self.keys) or "none"
            raise UsageError(f"the key ring has no key {kid!r}", hint=f"It has: {names}")
        return self.keys[kid]


class KeyFile:
    """A key ring on disk. Running controllers apply a change within a second, without a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._checked = float("-inf")
        self._ring = KeyRing()

    @property
    def ring(self) -> KeyRing:
        """The keys in the file, which is checked once a second."""
        with self._lock:
            if time.monotonic() - self._checked >= _CHECK_SECONDS:
                self._look()
            return self._ring

    def refresh(self) -> KeyRing:
        """Check the file now: an unknown key may have been added a moment ago."""
        with self._lock:
            self._look()
            return self._ring

    def update(self, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
        """Change the ring and save it under a lock; if `change` raises, the file stays unchanged."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            ring = change(self.refresh())
            self.save(ring)
            return ring
        finally:
            os.close(descriptor)

    def save(self, ring: KeyRing) -> None:
        """Replace the file atomically, mode 0600."""
        write_private(self.path, keys_to_json(ring))
        self.refresh()

    def _look(self) -> None:
        self._checked = time.monotonic()
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen, self._ring = None, KeyRing()
            return
        except OSError as error:
            if self._seen is None:
                raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
            log.error("%s cannot be read: %s; still using the previous keys", self.path, error.strerror)  # noqa: TRY400  # the message is complete
            return
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp == self._seen:
            return
        try:
            self._ring = _read(self.path)
        except UsageError as error:
            if self._seen is None:
                raise
            log.error("%s; still using the previous keys", error)  # noqa: TRY400  the message is complete
        self._seen = stamp


def generate(
    kid: str,
    algorithm: str = "Ed25519",
    *,
    owner: str | None = None,
    role: str | None = None,
    region: str | None = None,
) -> Key:
    """Return a new key with 256 random bits; raise UsageError for an unknown algorithm, role or missing region."""
    from joserfc.jwk import OctKey, OKPKey

    if algorithm == "HS256":
        jwk = OctKey.generate_key(_SECRET_BYTES * 8, private=True).as_dict(private=True)
    elif algorithm == "Ed25519":
        jwk = OKPKey.generate_key("Ed25519").as_dict(private=True)
    else:
        raise UsageError(f"algorithm must be HS256 or Ed25519, got {algorithm!r}")
    material = {name: str(value) for name, value in jwk.items() if name in ("kty", "k", "crv", "x", "d")}
    now = int(time.time())
    key = Key(kid=kid, algorithm=algorithm, jwk=material, owner=owner, role=role, region=region, created=now)
    _check_role(key)
    return key


def key_from_json(text: str, where: str) -> Key:
    """Return the key in a JSON object as `key_to_json` writes it; raise UsageError."""
    try:
        return _from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} does not contain a key: {error}") from error


def key_to_json(key: Key) -> str:
    """Return a key as JSON for another ring; `key add` reads it."""
    return json.dumps(_to_json(replace(key, status=KeyStatus.ACCEPTED)), indent=2) + "\n"


def keys_to_json(ring: KeyRing) -> str:
    """Return a ring as the JSON of a key file."""
    return json.dumps({"keys": [_to_json(key) for key in ring]}, indent=2) + "\n"


def write_private(path: Path, text: str) -> None:
    """Replace a file of mode 0600, and create its directory if it is missing."""
    make_private_directory(path.parent)
    write_secret(path, text)


def _read(path: Path) -> KeyRing:
    try:
        entries = json.loads(read_bytes(path))["keys"]
        return KeyRing({key.kid: key for key in map(_from_json, entries)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} does not contain a key ring: {error}") from error


def _to_json(key: Key) -> dict[str, Any]:
    return {
        **{"kid": key.kid, "alg": key.algorithm, "status": key.status.value},
        **{"owner": key.owner, "role": key.role, "region": key.region, "created": key.created, "jwk": dict(key.jwk)},
        **({"replaces": key.replaces} if key.replaces else {}),
        **({"retires": key.retires} if key.retires else {}),
    }


def _from_json(entry: Mapping[str, Any]) -> Key:
    jwk = {str(name): str(value) for name, value in entry["jwk"].items()}
    key = Key(
        kid=str(entry["kid"]),
        algorithm=str(entry["alg"]),
        jwk=jwk,
        status=KeyStatus(entry.get("status", "accepted")),
        owner=entry.get("owner"),
        role=entry.get("role"),
        region=entry.get("region"),
        created=int(entry.get("created", 0)),
        replaces=entry.get("replaces"),
        retires=int(entry.get("retires", 0)),
    )
    _check_material(key)
    _check_role(key)
    return key


def _check_role(key: Key) -> None:
    """Raise UsageError if the role is unknown or does not fit the region."""
    if key.role is not None and key.role not in ROLES:
        raise UsageError(f"key {key.kid!r}: role must be one of {', '.join(ROLES)}, got {key.role!r}")
    if (key.role in ("local", "regional")) != (key.region is not None):
        raise UsageError(f"key {key.kid!r}: a local or regional key needs a region, other keys have none")


def _check_material(key: Key) -> None:
    """Raise UsageError if the key material does not fit the algorithm."""
    from joserfc.errors import JoseError

    if ALGORITHMS.get(key.algorithm) != key.jwk.get("kty"):
        raise UsageError(f"key {key.kid!r}: {key.algorithm!r} does not work with a key of type {key.jwk.get('kty')!r}")
    if key.algorithm == "HS256" and len(key.jwk.get("k", "")) < 4 * _SECRET_BYTES // 3:
        raise UsageError(f"key {key.kid!r} is shorter than {_SECRET_BYTES * 8} bits")
    try:
        _ = key.material
    except (JoseError, ValueError) as error:
        raise UsageError(f"key {key.kid!r} has invalid key material") from error
