"""Give a running broker new users, ACL or certificates by SIGHUP, and prove that it is still closed.

A broken or missing ACL file at a reload takes away every ACL check, and a missing password file lets any
credentials in where anonymous is on. So: validate first, replace whole files, reload, then send canaries: a
stranger and a user without rights must be denied. If they are not, the broker is stopped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.acl_simulator import check_access
from mqttkit.broker.accounts.passwords import generate_password, password_line
from mqttkit.broker.accounts.roles import ACL_NAME, PASSWORDS_NAME, AccountFiles
from mqttkit.broker.mosquitto.configuration import CANARY
from mqttkit.broker.probe import Login, ask, publish
from mqttkit.broker.profile import Profile, read_profile
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import BrokerUnreachable, LifecycleError, UsageError

RELOAD_SECONDS = 30.0
"""A reload verifies the password of each connected client again, about 0.5 ms each."""
POLL_SECONDS = 0.02
CONF_NAME = "config/mosquitto.conf"


class BrokerOpened(LifecycleError):
    """After a reload the broker let in what it must deny: it was stopped."""


def apply_changes(broker: Broker, changes: Mapping[str, bytes] | None = None) -> bool:
    """Replace files of the broker and let it take them; return False where it does not run.

    `changes` maps names such as config/passwd to their whole content; without any, the files are taken as they
    are. The caller holds the broker's lock. Raises `UsageError` for content that mosquitto would not take (and
    changes nothing), `LifecycleError` where the broker does not take it (the old files are put back), and
    `BrokerOpened` where it had to be stopped.
    """
    require(broker, Feature.RELOAD, "a reload")
    changes = dict(changes or {})
    accounts = _validated(broker, changes)
    if broker.running() is None:
        _write(broker, changes)
        return False
    before = {name: broker.read_file(name) for name in (*changes, PASSWORDS_NAME)}
    try:
        _reload(broker, changes, accounts)
    except BrokerOpened:
        _restore(broker, before)
        broker.down()
        raise
    except BaseException:
        _restore(broker, before)
        _reload_or_stop(broker)
        raise
    return True


def _validated(broker: Broker, changes: Mapping[str, bytes]) -> AccountFiles:
    """Return the accounts as they will be; raise `UsageError` where mosquitto would not take them."""
    if broker.read_file(CONF_NAME) is None:
        raise UsageError(f"the broker's {CONF_NAME} is missing", hint="Write it anew with: mqttkit broker restart")
    names = (PASSWORDS_NAME, ACL_NAME)
    return AccountFiles.parse(*(changes.get(name, broker.read_file(name)) for name in names))


def _reload(broker: Broker, changes: Mapping[str, bytes], accounts: AccountFiles) -> None:
    """Write the files with a canary among the users, reload, prove, and take the canary out again."""
    profile = read_profile(broker.paths)
    if profile is None:
        raise LifecycleError(f"broker {broker.spec.name!r} has no profile", hint="Write it with: mqttkit broker up")
    password = generate_password()
    users = changes.get(PASSWORDS_NAME) or broker.read_file(PASSWORDS_NAME) or b""
    with_canary = users.rstrip(b"\n") + f"\n{password_line(CANARY, password)}\n".encode()
    _write(broker, {**changes, PASSWORDS_NAME: with_canary})
    broker.signal("HUP")
    canary = Login(host=profile.host, port=profile.port, username=CANARY, password=password)
    _wait_taken(broker, canary)
    _prove_closed(canary, accounts)
    _prove_open_for_operator(profile, accounts)
    broker.write_file(PASSWORDS_NAME, users)


def _wait_taken(broker: Broker, canary: Login) -> None:
    """Wait until the broker knows the canary, whose password is in the new file only."""
    deadline = time.monotonic() + RELOAD_SECONDS
    while not _accepted(canary):
        if broker.running() is None:
            raise LifecycleError("the broker ended at the reload", hint="See: mqttkit broker logs")
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the broker did not take its files in {RELOAD_SECONDS:g} s; the old ones are back",
                hint="See: mqttkit broker logs",
            )
        time.sleep(POLL_SECONDS)


def _prove_closed(canary: Login, accounts: AccountFiles) -> None:
    """Raise `BrokerOpened` where a stranger gets in, or a user without rights may publish."""
    stranger = Login(host=canary.host, port=canary.port, username=generate_password(), password=generate_password())
    if _accepted(stranger):
        raise BrokerOpened("after the reload the broker let a stranger in: it was stopped", hint=_FIX)
    topic = f"mqttkit/canary/{secrets.token_hex(8)}"
    if check_access(accounts.acl, Access.WRITE, topic, user=CANARY).allowed:
        return  # a pattern for everybody allows it: nothing to be seen here
    if publish(canary, topic) < 0x80:
        raise BrokerOpened("after the reload the broker checked no ACL: it was stopped", hint=_FIX)


def _prove_open_for_operator(profile: Profile, accounts: AccountFiles) -> None:
    """Raise `LifecycleError` where the operator, who is among the users, is not let in."""
    if profile.username not in accounts.passwords.hashes:
        return
    login = Login(host=profile.host, port=profile.port, username=profile.username, password=profile.password)
    if not _accepted(login):
        raise LifecycleError("after the reload the broker refused its operator; the old files are back")


def _accepted(login: Login) -> bool:
    try:
        return ask(login).accepted
    except BrokerUnreachable:
        return False


def _reload_or_stop(broker: Broker) -> None:
    """Let the broker take the old files again; stop it where even that cannot be proven."""
    if broker.running() is None:
        return
    try:
        _reload(broker, {}, _validated(broker, {}))
    except (LifecycleError, UsageError, BrokerUnreachable):
        broker.down()


def _write(broker: Broker, changes: Mapping[str, bytes]) -> None:
    for name, content in changes.items():
        broker.write_file(name, content)


def _restore(broker: Broker, before: Mapping[str, bytes | None]) -> None:
    for name, content in before.items():
        if content is None:
            broker.remove_file(name)
        else:
            broker.write_file(name, content)


_FIX = "The old files are back; start it again with: mqttkit broker up"
