"""mosquitto's password file: hash, verify, parse, write. Pure except for `load` and `save`.

A line is `user:$7$ITERATIONS$SALT$HASH`: PBKDF2-HMAC-SHA512 with a 64-byte key and a salt of exactly 12 bytes, both
in base64. mosquitto 2.0 silently drops a user whose salt has another length. We read `$6$SALT$HASH`, one round of
SHA-512 over password and salt, but never write it; nor do we write what only mosquitto 2.1 reads and its
`mosquitto_passwd` writes: `$argon2id$…`, or in a build without Argon2 (Debian's) a salt of 64 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mqttkit.errors import UsageError
from mqttkit.files import read_text, write_secret

DEFAULT_ITERATIONS = 1_000
"""A login blocks the broker's only thread for about 0.5 ms, and a reload verifies every client again."""
MAX_ITERATIONS = 1_000_000
SALT_BYTES = 12
HASH_BYTES = 64
ARGON2ID = 2
"""Scheme of Argon2id hashes (RFC 9106, 3.1)."""
OTHER_HASHES_VERSION = (2, 1)
"""First mosquitto that reads Argon2id hashes and salts of other lengths."""
MAX_SALT_BYTES = 64
MAX_ARGON2_KIB, MAX_ARGON2_PASSES = 1 << 20, 100
MIN_PASSWORD = 16
MIN_GUESSES = 12
"""Power of ten of the guesses that an attacker needs; three common words reach 14, a sequence of digits 4."""
MAX_ESTIMATED = 72
"""Characters of a password that are estimated; longer ones take seconds."""
GENERATED_PASSWORD = 24
MAX_STRING = 65_535
"""Bytes of an MQTT string (MQTT 5, 1.5.4)."""
_BLANKS = " \t\v\f\r"
"""What mosquitto strips around user and hash."""
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class PasswordHash:
    """The stored form of one password."""

    scheme: int
    """7 for PBKDF2-HMAC-SHA512, 6 for one round of SHA-512, ARGON2ID."""
    iterations: int
    """Rounds of PBKDF2, passes of Argon2id; 1 for scheme 6."""
    salt: bytes = field(repr=False)
    """12 bytes, from mosquitto 2.1 on up to 64; empty for ARGON2ID."""
    digest: bytes = field(repr=False)
    """64 bytes; empty for ARGON2ID."""
    encoded: str = field(default="", repr=False)
    """The complete text of an ARGON2ID hash."""

    @classmethod
    def of(cls, password: str, *, iterations: int = DEFAULT_ITERATIONS) -> PasswordHash:
        """Hash a password with a new random salt."""
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise UsageError(f"iterations must be 1 to {MAX_ITERATIONS:,}, got {iterations}")
        salt = secrets.token_bytes(SALT_BYTES)
        return cls(7, iterations, salt, _pbkdf2(password, salt, iterations))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read `$7$…`, `$6$…` or `$argon2id$…`; raise ValueError with a reason that does not contain the text."""
        if text.startswith("$argon2id$"):
            return cls(ARGON2ID, _argon2_passes(text), b"", b"", text)
        if not text.startswith(("$6$", "$7$")):
            raise ValueError("the hash does not begin with $7$, $6$ or $argon2id$")
        parts = text.split("$")
        if len(parts) != (5 if parts[1] == "7" else 4):
            raise ValueError(f"a ${parts[1]}$ hash has the wrong number of fields")
        rounds = parts[2] if parts[1] == "7" else "1"
        digits = rounds.lstrip("0")
        if not (digits.isascii() and digits.isdigit() and int(digits[:8]) <= MAX_ITERATIONS):
            raise ValueError(f"the iterations are not 1 to {MAX_ITERATIONS:,}")
        most = MAX_SALT_BYTES if parts[1] == "7" else SALT_BYTES
        salt = _decoded(parts[-2], "salt", least=SALT_BYTES, most=most)
        digest = _decoded(parts[-1], "hash", least=HASH_BYTES, most=HASH_BYTES)
        return cls(int(parts[1]), int(digits), salt, digest)

    def verify(self, password: str) -> bool:
        """Return in constant time whether this is the password."""
        if self.scheme == ARGON2ID:
            return _argon2_verify(self.encoded, password)
        if self.scheme == 7:
            candidate = _pbkdf2(password, self.salt, self.iterations)
        else:
            candidate = hashlib.sha512(password.encode() + self.salt).digest()
        return hmac.compare_digest(candidate, self.digest)

    @property
    def needs_new_broker(self) -> bool:
        """Whether a mosquitto before OTHER_HASHES_VERSION would drop the user."""
        return self.scheme == ARGON2ID or len(self.salt) != SALT_BYTES

    @property
    def name(self) -> str:
        """The first part of the text: `$7$`, `$6$` or `$argon2id$`."""
        return "$argon2id$" if self.scheme == ARGON2ID else f"${self.scheme}$"

    def __str__(self) -> str:
        if self.scheme == ARGON2ID:
            return self.encoded
        rounds = f"{self.iterations}$" if self.scheme == 7 else ""
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return f"${self.scheme}${rounds}{salt}${digest}"


@dataclass(frozen=True)
class PasswordFile:
    """The users of a broker, in the file's order."""

    hashes: Mapping[str, PasswordHash] = field(default_factory=dict)
    """Hash of each user's password."""

    @classmethod
    def parse(cls, text: str, *, where: str = "password file") -> PasswordFile:
        """Read every line; raise UsageError with the line number if mosquitto would drop or ignore a line."""
        hashes: dict[str, PasswordHash] = {}
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip(_BLANKS) or line.startswith("#"):
                continue
            try:
                user, hashed = _parse_line(line)
            except ValueError as error:
                raise UsageError(f"{where}:{number}: {error}", hint=_FIX) from error
            if user in hashes:
                raise UsageError(f"{where}:{number}: user {user!r} has two lines", hint="Remove one of the lines")
            hashes[user] = hashed
        return cls(hashes)

    @classmethod
    def load(cls, path: Path) -> PasswordFile:
        """Read a file; raise UsageError if it is missing, a symbolic link or invalid."""
        return cls.parse(read_text(path), where=str(path))

    def save(self, path: Path, *, owner: tuple[int, int] | None = None) -> None:
        """Replace the file, mode 0600."""
        write_secret(path, self.render(), owner=owner)

    def render(self) -> str:
        """Return the file's text."""
        return "".join(f"{user}:{hashed}\n" for user, hashed in self.hashes.items())

    def with_user(self, user: str, password: str, *, iterations: int = DEFAULT_ITERATIONS) -> PasswordFile:
        """Return a copy in which the user has this password; add the user if it is new."""
        check_user_name(user)
        check_password(password)
        return PasswordFile({**self.hashes, user: PasswordHash.of(password, iterations=iterations)})

    def without_user(self, user: str) -> PasswordFile:
        """Return a copy without the user; raise UsageError if there is no such user."""
        if user not in self.hashes:
            raise UsageError(f"user {user!r} does not exist", hint="List them with: mqttkit broker user list")
        return PasswordFile({name: hashed for name, hashed in self.hashes.items() if name != user})

    def verify(self, user: str, password: str) -> bool:
        """Return whether the broker would accept these credentials."""
        hashed = self.hashes.get(user)
        return hashed is not None and hashed.verify(password)


_STRONG = "Generate one with --generate, or accept this one with --weak"
_FIX = "Write lines with: mqttkit broker user add, or mosquitto_passwd"


def password_line(user: str, password: str, *, iterations: int = DEFAULT_ITERATIONS) -> str:
    """Return a line of a password file without its line end; raise UsageError for an invalid name or password."""
    check_user_name(user)
    check_password(password)
    return f"{user}:{PasswordHash.of(password, iterations=iterations)}"


def generate_password() -> str:
    """Return 24 random letters and digits, 142 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(GENERATED_PASSWORD))


def check_user_name(user: str) -> None:
    """Raise UsageError if mosquitto's files or ACL patterns cannot contain the name."""
    if not user:
        raise UsageError("a user name cannot be empty")
    _check_string(user, "user name")
    if user != user.strip():
        raise UsageError(f"user name {user!r} begins or ends with white space, which the broker strips")
    bad = sorted({character for character in user if character in ":+#/" or not character.isprintable()})
    if bad:
        raise UsageError(
            f"user name {user!r} contains {', '.join(map(repr, bad))}",
            hint="Do not use : + # / or control characters: files and ACL patterns cannot contain them",
        )


def check_password(password: str) -> None:
    """Raise UsageError if a client cannot send the password, or the broker would truncate it."""
    if not password:
        raise UsageError("a password cannot be empty")
    _check_string(password, "password")
    if any(character in "\0\r\n" for character in password):
        raise UsageError("a password cannot contain NUL or a line end")


def check_strength(password: str) -> None:
    """Raise UsageError for a password of fewer than 16 characters, or one that is easy to guess.

    zxcvbn knows common passwords, words, repetitions, sequences and keyboard patterns.
    """
    from zxcvbn import zxcvbn

    if len(password) < MIN_PASSWORD:
        raise UsageError(
            f"the password has {len(password)} characters; it needs at least {MIN_PASSWORD}",
            hint=_STRONG,
        )
    estimate = zxcvbn(password[:MAX_ESTIMATED])
    if estimate["guesses_log10"] < MIN_GUESSES:
        reason = estimate["feedback"]["warning"] or "it is a combination of common words"
        raise UsageError(f"the password is easy to guess: {reason.rstrip('.')}", hint=_STRONG)


def _check_string(text: str, what: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"the {what} is not UTF-8") from error
    if size > MAX_STRING:
        raise UsageError(f"a {what} has at most {MAX_STRING:,} bytes, got {size:,}")


def _parse_line(line: str) -> tuple[str, PasswordHash]:
    user, colon, rest = line.partition(":")
    if not colon:
        raise ValueError("no ':' between user and hash")
    user = user.strip(_BLANKS)
    if not user:
        raise ValueError("no user before ':'")
    if ":" in rest:
        raise ValueError("more than one ':'")
    return user, PasswordHash.parse(rest.strip(_BLANKS))


def _argon2_passes(text: str) -> int:
    """Return the passes of an Argon2id hash; raise ValueError if it is invalid, or takes too much memory or time."""
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        found = extract_parameters(text)
    except (InvalidHashError, ValueError) as error:
        raise ValueError("the $argon2id$ hash is invalid") from error
    if found.memory_cost > MAX_ARGON2_KIB or not 1 <= found.time_cost <= MAX_ARGON2_PASSES:
        raise ValueError(f"the $argon2id$ hash needs more than {MAX_ARGON2_KIB} KiB or {MAX_ARGON2_PASSES} passes")
    return int(found.time_cost)


def _argon2_verify(encoded: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return PasswordHasher().verify(encoded, password)
    except (Argon2Error, InvalidHashError):
        return False


def _pbkdf2(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, dklen=HASH_BYTES)


def _decoded(text: str, what: str, *, least: int, most: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the {what} is not base64") from error
    if not least <= len(data) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"the {what} has {len(data)} bytes instead of {wanted}")
    return data
