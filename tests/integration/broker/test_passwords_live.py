"""Password lines against the real mosquitto and its own mosquitto_passwd."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqttkit.broker.accounts.passwords import PasswordFile, password_line
from tests.support.brokers import Mosquitto, mosquitto, need
from tests.support.probe import login

USERS = {
    "anna": "correct horse battery",
    "bert müller": "pässwörd ✓ mit: allem $ und #",
    "c": " spaces around ",
    "d": "x" * 65_535,
}
NOT_AUTHORISED = 135

RunWith = Callable[[str], Mosquitto]


@pytest.fixture
def run_with(tmp_path: Path) -> Iterator[RunWith]:
    """A function that runs a broker with a password file of this text."""
    with contextlib.ExitStack() as stack:

        def run(text: str) -> Mosquitto:
            file = tmp_path / "passwd"
            file.write_text(text)
            running = mosquitto(tmp_path / "broker", f"password_file {file}", anonymous=False)
            return stack.enter_context(running)

        yield run


def test_mosquitto_lets_in_whom_our_lines_name(run_with: RunWith) -> None:
    """Names with spaces and umlauts, passwords of any text and of full length work; others do not."""
    broker = run_with("".join(password_line(user, word) + "\n" for user, word in USERS.items()))
    for user, word in USERS.items():
        assert login(broker.port, user, word) == 0
        assert login(broker.port, user, word[:-1] + "~") == NOT_AUTHORISED
    assert login(broker.port, "eve", "correct horse battery") == NOT_AUTHORISED
    assert login(broker.port, None, None) == NOT_AUTHORISED


def test_a_salt_that_we_refuse_loses_the_user_in_mosquitto(run_with: RunWith) -> None:
    """The reason for the strict salt length: mosquitto 2.0 starts and drops the user."""
    import base64
    import hashlib

    salt = bytes(16)
    digest = hashlib.pbkdf2_hmac("sha512", b"secret", salt, 101, 64)
    encoded = [base64.b64encode(part).decode() for part in (salt, digest)]
    broker = run_with(f"anna:$7$101${encoded[0]}${encoded[1]}\n{password_line('bert', 'secret')}\n")
    assert login(broker.port, "bert", "secret") == 0
    assert login(broker.port, "anna", "secret") == NOT_AUTHORISED


def test_lines_of_mosquitto_passwd_are_read_and_verified(tmp_path: Path) -> None:
    """What mosquitto_passwd writes, scheme 7 and 6, verifies here with the same password only."""
    program = need("mosquitto_passwd")
    for option, scheme in (("-H", "sha512-pbkdf2"), ("-H", "sha512")):
        path = tmp_path / scheme
        subprocess.run([program, "-c", "-b", option, scheme, str(path), "anna", "sécret $x"], check=True)
        file = PasswordFile.load(path)
        assert file.verify("anna", "sécret $x")
        assert not file.verify("anna", "sécret $y")


def test_mosquitto_passwd_updates_a_file_of_ours(tmp_path: Path) -> None:
    """Both tools can work on one file."""
    path = tmp_path / "passwd"
    PasswordFile().with_user("anna", "one").with_user("bert", "two").save(path)
    subprocess.run([need("mosquitto_passwd"), "-b", str(path), "anna", "three"], check=True)
    file = PasswordFile.load(path)
    assert file.verify("anna", "three")
    assert file.verify("bert", "two")
