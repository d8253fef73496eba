"""The safe reload against a real mosquitto: the dangers of SIGHUP, and that they do not come to pass."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from mqttkit.broker import Broker, BrokerSpec, start_broker
from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.passwords import password_line
from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.live import reload
from mqttkit.broker.live.reload import BrokerOpened, apply_changes
from mqttkit.broker.mosquitto.configuration import CANARY
from mqttkit.broker.probe import Login, ask, publish
from mqttkit.broker.profile import locked
from mqttkit.errors import LifecycleError, UsageError
from tests.support.brokers import need, profile_of

DENIED = 0x87
PASSWORD = "correct horse battery"


@pytest.fixture
def running() -> Iterator[Broker]:
    """A broker of the process backend with a user `device` that may write `own/#`."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    try:
        apply_changes(broker, with_device(broker))
        yield broker
    finally:
        with locked(broker.paths):
            broker.down(volumes=True)


def accounts_of(broker: Broker) -> AccountFiles:
    return AccountFiles.parse(broker.read_file("config/passwd"), broker.read_file("config/acl"))


def with_device(broker: Broker) -> dict[str, bytes]:
    before = accounts_of(broker)
    after = before.add("device", PASSWORD).grant("device", Access.WRITE, "own/#")
    return after.changed_from(before)


def login(broker: Broker, username: str = "device", password: str = PASSWORD) -> Login:
    profile = profile_of(broker)
    return Login(host=profile.host, port=profile.port, username=username, password=password)


def test_a_new_user_may_log_in_when_the_call_returns(running: Broker):
    assert ask(login(running)).accepted
    assert publish(login(running), "own/x") < 0x80
    assert publish(login(running), "other/x") == DENIED


def test_the_canary_is_in_the_files_no_longer(running: Broker):
    assert CANARY not in accounts_of(running).passwords.hashes
    assert apply_changes(running)


def test_a_removed_user_is_let_in_no_longer(running: Broker):
    before = accounts_of(running)
    apply_changes(running, before.remove("device").changed_from(before))
    assert not ask(login(running)).accepted


@pytest.mark.parametrize(
    "changes",
    [
        {"config/acl": b"user device\ntopic raed own/#\n"},
        {"config/acl": b"topic write own/#/x\n"},
        {"config/passwd": b"device:plain\n"},
        {"config/passwd": b"device:$7$101$AAAA$BBBB\n"},
        {"config/passwd": b"\xff"},
    ],
)
def test_a_broken_file_is_refused_before_it_is_written(running: Broker, changes: dict[str, bytes]):
    """mosquitto would drop the user without a word, or every ACL check."""
    before = {name: running.read_file(name) for name in changes}
    with pytest.raises(UsageError):
        apply_changes(running, changes)
    assert {name: running.read_file(name) for name in changes} == before
    assert publish(login(running), "other/x") == DENIED


@pytest.mark.parametrize("name", ["config/acl", "config/passwd", "config/mosquitto.conf"])
def test_a_missing_file_is_refused_and_the_broker_goes_on_as_it_was(running: Broker, name: str):
    content = running.read_file(name)
    assert content is not None
    running.remove_file(name)
    with pytest.raises(UsageError, match="is missing"):
        apply_changes(running)
    assert publish(login(running), "other/x") == DENIED


def test_a_bare_sighup_with_a_broken_acl_opens_the_broker(running: Broker):
    """The danger itself: this is what `apply_changes` is there for."""
    running.write_file("config/acl", b"topic raed x\n")
    running.signal("HUP")
    deadline = time.monotonic() + 60
    while publish(login(running), "other/x") == DENIED:
        assert time.monotonic() < deadline, "this mosquitto keeps its ACL: the danger is gone"
        time.sleep(0.02)


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: its broker runs as another user")


def test_an_acl_file_that_the_broker_may_not_read_is_repaired_before_the_signal(as_root: None, running: Broker):
    """Wrong owner: we can read the file, the broker cannot, and would check no ACL any more."""
    acl = running.paths.root / "config/acl"
    wanted = acl.stat().st_uid
    os.chown(acl, 0, 0)
    assert apply_changes(running)
    assert acl.stat().st_uid == wanted


def test_an_acl_file_that_the_broker_never_may_read_stops_the_broker(
    as_root: None, running: Broker, monkeypatch: pytest.MonkeyPatch
):
    """The repair did not help: the canary shows that the broker checks no ACL."""
    os.chown(running.paths.root / "config/acl", 0, 0)
    monkeypatch.setattr(running, "file_facts", list)
    with pytest.raises(BrokerOpened, match="checked no ACL"):
        apply_changes(running)
    assert running.running() is None


def test_a_password_file_that_an_anonymous_broker_may_not_read_stops_it(as_root: None):
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0, anonymous=True))
    config = broker.paths.root / "config"
    real = broker.write_file

    def wrong_owner(name: str, content: bytes) -> None:
        real(name, content)
        os.chown(config / name.removeprefix("config/"), 0, 0)

    broker.write_file = wrong_owner  # type: ignore[method-assign]
    try:
        with pytest.raises(BrokerOpened, match="accepted a stranger"):
            apply_changes(broker)
        assert broker.running() is None
    finally:
        broker.down(volumes=True)


def test_what_the_broker_does_not_take_is_put_back(running: Broker, monkeypatch: pytest.MonkeyPatch):
    """A reload that never happens: the signal is lost, the old files come back."""
    monkeypatch.setattr(reload, "RELOAD_SECONDS", 0.3)
    before = running.read_file("config/passwd")
    real, sent = running.signal, list[str]()

    def lose_the_first(name: str) -> None:
        """The second one tells the broker of the old files, and it gets the time that it needs."""
        sent.append(name)
        if len(sent) > 1:
            monkeypatch.setattr(reload, "RELOAD_SECONDS", 60.0)
            real(name)

    monkeypatch.setattr(running, "signal", lose_the_first)
    extra = (before or b"") + f"{password_line('late', PASSWORD)}\n".encode()
    with pytest.raises(LifecycleError, match="did not read its files"):
        apply_changes(running, {"config/passwd": extra})
    assert running.read_file("config/passwd") == before
    assert ask(login(running)).accepted
    assert not ask(login(running, "late")).accepted


def test_a_broker_that_is_down_gets_its_files_and_no_signal(running: Broker):
    running.down()
    before = accounts_of(running)
    assert not apply_changes(running, before.remove("device").changed_from(before))
    assert "device" not in accounts_of(running).passwords.hashes


def test_the_embedded_broker_refuses_a_reload_by_name():
    broker, _ = start_broker(BrokerSpec(backend="embedded", port=0))
    try:
        with pytest.raises(UsageError, match="embedded backend: no reload"):
            apply_changes(broker)
    finally:
        broker.down(volumes=True)
