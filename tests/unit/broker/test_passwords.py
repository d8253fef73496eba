"""The password file: its hashes, its strictness, its names."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.broker.accounts.passwords import (
    PasswordFile,
    PasswordHash,
    check_strength,
    check_user_name,
    generate_password,
    password_line,
)
from mqttkit.errors import UsageError

SALT = base64.b64encode(b"twelve bytes").decode()
DIGEST = base64.b64encode(bytes(64)).decode()
GOOD = f"$7$101${SALT}${DIGEST}"

passwords = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=40)


@given(passwords)
@settings(max_examples=50)
def test_a_written_line_verifies_its_password_and_no_other(password: str) -> None:
    """What password_line writes, parse reads, and only that password fits."""
    file = PasswordFile.parse(password_line("anna", password, iterations=1))
    assert file.verify("anna", password)
    assert not file.verify("anna", password + "x")
    assert not file.verify("bert", password)


def test_the_line_has_the_shape_that_mosquitto_2_0_keeps() -> None:
    """Scheme 7, the iterations asked for, a salt of 12 bytes, a key of 64."""
    user, _, hashed = password_line("anna", "secret", iterations=77).partition(":")
    empty, scheme, iterations, salt, digest = hashed.split("$")
    assert (user, empty, scheme, iterations) == ("anna", "", "7", "77")
    assert len(base64.b64decode(salt)) == 12
    expected = hashlib.pbkdf2_hmac("sha512", b"secret", base64.b64decode(salt), 77, 64)
    assert base64.b64decode(digest) == expected


def test_scheme_6_is_read() -> None:
    """One round of SHA-512 over password and salt verifies."""
    salt = b"0123456789ab"
    digest = hashlib.sha512(b"secret" + salt).digest()
    text = f"$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
    hashed = PasswordHash.parse(text)
    assert hashed.verify("secret")
    assert not hashed.verify("Secret")
    assert str(hashed) == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("anna", "no ':'"),
        (":" + GOOD, "no user"),
        ("anna:", "does not begin"),
        ("anna:plain", "does not begin"),
        (f"anna:{GOOD}:x", "more than one ':'"),
        (f"anna:$5$101${SALT}${DIGEST}", "does not begin"),
        (f"anna:$7${SALT}${DIGEST}", "number of fields"),
        (f"anna:$6$101${SALT}${DIGEST}", "number of fields"),
        (f"anna:$7$0${SALT}${DIGEST}", "iterations"),
        (f"anna:$7$-5${SALT}${DIGEST}", "iterations"),
        (f"anna:$7${'9' * 5000}${SALT}${DIGEST}", "iterations"),
        (f"anna:$7$101${base64.b64encode(bytes(11)).decode()}${DIGEST}", "salt has 11 bytes"),
        (f"anna:$7$101${SALT}${base64.b64encode(bytes(63)).decode()}", "hash has 63 bytes"),
        (f"anna:$7$101$!!!!${DIGEST}", "salt is not base64"),
    ],
)
def test_a_line_that_mosquitto_would_drop_is_an_error_with_its_number(line: str, reason: str) -> None:
    """mosquitto drops malformed lines silently; here file, line and reason are named, no secret is."""
    with pytest.raises(UsageError, match=reason) as caught:
        PasswordFile.parse(f"# comment\n\n{line}\n", where="passwords")
    assert "passwords:3:" in str(caught.value)
    assert SALT not in str(caught.value)


def test_a_duplicate_user_is_an_error() -> None:
    """mosquitto 2.0 lets one of the two win and 2.1 refuses to start."""
    with pytest.raises(UsageError, match="passwords:2: user 'anna' has two lines"):
        PasswordFile.parse(f"anna:{GOOD}\nanna :{GOOD}\n", where="passwords")


@given(st.text(max_size=80))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    """No file content raises anything but UsageError, and what parses renders to the same users."""
    try:
        file = PasswordFile.parse(text)
    except UsageError:
        return
    assert PasswordFile.parse(file.render()) == file


@pytest.mark.parametrize(
    "name", ["", " anna", "anna ", "a:b", "a+", "#a", "a/b", "a\nb", "a\0", "a\ud800", "x" * 65_536]
)
def test_a_name_that_files_or_patterns_cannot_carry_is_refused(name: str) -> None:
    """A user name that would break the file, a %u pattern or the wire is refused."""
    with pytest.raises(UsageError):
        check_user_name(name)


@pytest.mark.parametrize("password", ["", "a\0b", "a\nb", "\ud800", "x" * 65_536])
def test_a_password_that_cannot_be_sent_is_refused(password: str) -> None:
    """The broker cuts at NUL, a password file at the line end."""
    with pytest.raises(UsageError):
        password_line("anna", password)


def test_iterations_have_bounds() -> None:
    """0 is not a hash, and too many block the broker for seconds."""
    for iterations in (0, -1, 1_000_001):
        with pytest.raises(UsageError, match="iterations"):
            password_line("anna", "secret", iterations=iterations)


@pytest.mark.parametrize("password", ["a" * 16, "1234567890123456", "passwordpassword", "qwertyuiopasdfgh", "ab" * 50])
def test_a_long_password_that_is_easy_to_guess_is_weak(password: str) -> None:
    """Repetitions, sequences, common passwords and keyboard patterns are no better when they are long."""
    with pytest.raises(UsageError, match="easy to guess"):
        check_strength(password)


def test_weak_passwords_are_named_by_length() -> None:
    """15 characters are too few, 16 are enough; generated ones always are."""
    with pytest.raises(UsageError, match="15 characters"):
        check_strength("q8fKw29xLpZmT4v")
    check_strength("q8fKw29xLpZmT4vB")
    check_strength("correct horse battery" * 10)
    generated = {generate_password() for _ in range(50)}
    assert len(generated) == 50
    assert all(len(word) == 24 and word.isalnum() for word in generated)


def test_users_are_added_changed_and_removed_in_order() -> None:
    """The copy has the change; the original stays; an unknown user cannot be removed."""
    first = PasswordFile().with_user("anna", "one", iterations=1).with_user("bert", "two", iterations=1)
    changed = first.with_user("anna", "three", iterations=1)
    assert list(changed.hashes) == ["anna", "bert"]
    assert first.verify("anna", "one")
    assert changed.verify("anna", "three")
    assert list(changed.without_user("anna").hashes) == ["bert"]
    with pytest.raises(UsageError, match="user 'cara' does not exist"):
        changed.without_user("cara")


def test_no_secret_shows_in_a_representation() -> None:
    """Neither salt nor digest reach a log through repr."""
    assert "twelve" not in repr(PasswordFile.parse(f"anna:{GOOD}"))


def test_a_file_is_saved_for_its_owner_and_read_back(tmp_path: Path) -> None:
    """Mode 0600; a broken one is named with its line."""
    users = PasswordFile.parse(f"anna:{GOOD}\n", where="passwd")
    users.save(tmp_path / "passwd")
    assert (tmp_path / "passwd").stat().st_mode & 0o777 == 0o600
    assert PasswordFile.load(tmp_path / "passwd") == users
    (tmp_path / "passwd").write_text("anna\n")
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'passwd'}:1: ")):
        PasswordFile.load(tmp_path / "passwd")


@pytest.mark.parametrize("iterations", [0, 1_000_001])
def test_iterations_outside_the_bounds_are_errors(iterations: int) -> None:
    """One to a million, when a password is hashed and when a file is read."""
    with pytest.raises(UsageError, match="iterations must be 1 to 1,000,000"):
        PasswordHash.of("secret", iterations=iterations)
    with pytest.raises(ValueError, match="the iterations are not 1 to 1,000,000"):
        PasswordHash.parse(f"$7${iterations}${SALT}${DIGEST}")


@pytest.mark.parametrize("iterations", [1, 1_000_000])
def test_the_bounds_of_the_iterations_are_allowed(iterations: int) -> None:
    """The largest one is only read here: to hash with it takes a second."""
    assert PasswordHash.parse(f"$7${iterations}${SALT}${DIGEST}").iterations == iterations


def test_a_hash_does_not_print_its_salt_and_digest() -> None:
    """A traceback or a log line with the object tells nothing."""
    assert repr(PasswordHash.parse(GOOD)) == "PasswordHash(scheme=7, iterations=101)"


ARGON2ID = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$Y1J1Sm5TYk1uN2Vnb0dnUw"


def test_an_argon2id_line_of_mosquitto_2_1_is_read_verified_and_kept() -> None:
    """The text stays as it is; other users may be added beside it."""
    from argon2 import PasswordHasher

    text = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("secret")
    users = PasswordFile.parse(f"anna:{text}\n")
    assert users.verify("anna", "secret")
    assert users.verify("anna", "other") is False
    assert users.hashes["anna"].name == "$argon2id$"
    assert users.hashes["anna"].iterations == 1
    assert users.with_user("bert", "two", iterations=1).render().startswith(f"anna:{text}\nbert:$7$")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ARGON2ID.replace("m=8", "m=9999999"), "needs more than"),
        (ARGON2ID.replace("t=1", "t=101"), "needs more than"),
        (ARGON2ID.replace("t=1", "t=0"), "needs more than"),
        ("$argon2id$v=19$m=8", "is invalid"),
        (ARGON2ID.replace("m=8", "m=x"), "is invalid"),
    ],
)
def test_an_invalid_or_expensive_argon2id_hash_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        PasswordFile.parse(f"anna:{text}\n")


@pytest.mark.parametrize("cost", [f"m={1 << 20},t=1", "m=8,t=100"])
def test_the_largest_argon2id_costs_are_read(cost: str) -> None:
    """Reading costs nothing; one KiB or one pass more is too expensive for a login."""
    assert PasswordHash.parse(ARGON2ID.replace("m=8,t=1", cost)).name == "$argon2id$"
    memory, passes = (int(part[2:]) for part in cost.split(","))
    beyond = f"m={memory + 1},t=1" if passes == 1 else f"m=8,t={passes + 1}"
    with pytest.raises(ValueError, match=r"needs more than 1048576 KiB or 100 passes"):
        PasswordHash.parse(ARGON2ID.replace("m=8,t=1", beyond))


def test_a_password_needs_10_to_the_12_guesses() -> None:
    """zxcvbn says 12.02 for the first and 11.13 for the second."""
    check_strength("stonecloudriver77")
    with pytest.raises(UsageError, match="easy to guess: it is a combination of common words"):
        check_strength("riverstonecloud7")


@pytest.mark.parametrize("rounds", ["0010000000", "1000001", "10000000", "0" * 5_000, "", "1 000", "\u0661\u0660"])
def test_iterations_above_the_bound_cannot_hide_behind_zeros(rounds: str) -> None:
    """Only the value counts."""
    with pytest.raises(ValueError, match="the iterations are not 1 to 1,000,000"):
        PasswordHash.parse(f"$7${rounds}${SALT}${DIGEST}")
    assert PasswordHash.parse(f"$7${'0' * 5_000}1000${SALT}${DIGEST}").iterations == 1_000


def test_a_hash_has_a_thousand_iterations_and_cannot_be_changed() -> None:
    """As mosquitto_passwd's; a stored hash is a value."""
    made = PasswordHash.of("secret")
    assert made.iterations == 1_000
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.iterations = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PasswordFile().hashes = {}  # type: ignore[misc]


def test_users_and_passwords_have_at_most_65_535_bytes() -> None:
    """The longest strings of MQTT are accepted."""
    longest = "x" * 65_535
    assert password_line(longest, longest, iterations=1).startswith(f"{longest}:$7$1$")
    for user, password in ((longest + "x", "secret"), ("anna", longest + "x")):
        with pytest.raises(UsageError, match="at most 65,535 bytes"):
            password_line(user, password, iterations=1)


@pytest.mark.parametrize("size", [12, 16, 64])
def test_a_longer_salt_is_read_and_needs_mosquitto_2_1(size: int) -> None:
    """mosquitto_passwd 2.1 without Argon2 writes 64 bytes; mosquitto 2.0 drops such a user."""
    salt = bytes(range(size))
    digest = hashlib.pbkdf2_hmac("sha512", b"pass phrase", salt, 10, dklen=64)
    encoded = [base64.b64encode(part).decode() for part in (salt, digest)]
    hashed = PasswordHash.parse(f"$7$10${encoded[0]}${encoded[1]}")
    assert hashed.verify("pass phrase")
    assert not hashed.verify("pass phrases")
    assert hashed.needs_new_broker == (size != 12)
