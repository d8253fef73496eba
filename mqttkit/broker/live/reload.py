"""Give a running broker new users, ACL or certificates by SIGHUP, and prove that it still denies strangers.

If the ACL file is broken or missing at a reload, mosquitto drops every ACL check. If the password file is missing,
an anonymous broker accepts any credentials. So we validate first, replace complete files, reload, and then send
canaries: the broker must refuse a stranger and deny a user without rights. If it does not, we stop it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace

from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.acl_simulator import check_access
from mqttkit.broker.accounts.passwords import OTHER_HASHES_VERSION, generate_password, password_line
from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.file_names import ACL_FILE, CONFIGURATION_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.configuration import CANARY
from mqttkit.broker.probe import Login, ask, operator_login, publish
from mqttkit.broker.profile import Profile, read_profile
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import BrokerUnreachable, LifecycleError, UsageError

log = logging.getLogger(__name__)

RELOAD_SECONDS = 30.0
"""A reload verifies the password of each connected client again, about 0.5 ms each."""
POLL_SECONDS = 0.02


class BrokerOpened(LifecycleError):
    """After a reload the broker allowed what it must deny, and was stopped."""


class BrokerEnded(LifecycleError):
    """The broker ended at the reload, as mosquitto 2.1 does if it cannot read a file."""


def apply_changes(
    broker: Broker, changes: Mapping[str, bytes] | None = None, *, operator: Profile | None = None
) -> bool:
    """Replace files of the broker and make it read them; return False if it is not running.

    `changes` maps names such as config/passwd to their complete content; without any, the broker reads its files as
    they are. `operator` is the profile that must log in afterwards, if it differs from the stored one. Files that the
    broker's user could not read get the right owner and mode before the broker is told. The caller holds the broker's
    lock. Raises `UsageError` for content that mosquitto would reject (and changes nothing), `LifecycleError` if the
    broker does not accept it (and restores the old files), and `BrokerOpened` if the broker had to be stopped.
    """
    require(broker, Feature.RELOAD, "a reload")
    changes = {**_unreadable(broker), **(changes or {})}
    accounts = _validated(broker, changes)
    if broker.running() is None:
        _write(broker, changes)
        return False
    before = {name: broker.read_file(name) for name in (*changes, PASSWORD_FILE)}
    try:
        _reload(broker, changes, accounts, operator)
    except BrokerOpened:
        _restore(broker, before)
        broker.down()
        raise
    except BrokerEnded:
        broker.down()  # Docker may be restarting it with the new files, and then refuses to write the old ones
        _restore(broker, before)
        broker.up()
        raise
    except BaseException:
        _restore(broker, before)
        _reload_or_stop(broker)
        raise
    return True


def _validated(broker: Broker, changes: Mapping[str, bytes]) -> AccountFiles:
    """Return the accounts after the change; raise `UsageError` if mosquitto would reject them."""
    if broker.read_file(CONFIGURATION_FILE) is None:
        raise UsageError(
            f"the broker's {CONFIGURATION_FILE} is missing", hint="Write it again with: mqttkit broker restart"
        )
    names = (PASSWORD_FILE, ACL_FILE)
    accounts = AccountFiles.parse(*(changes.get(name, broker.read_file(name)) for name in names))
    _require_readable_hashes(broker, accounts)
    return accounts


def _require_readable_hashes(broker: Broker, accounts: AccountFiles) -> None:
    """Raise UsageError for a hash of mosquitto 2.1 if this mosquitto is older: it would drop the user."""
    users = [user for user, hashed in accounts.passwords.hashes.items() if hashed.needs_new_broker]
    if users and broker.version() < OTHER_HASHES_VERSION:
        version = ".".join(map(str, broker.version()))
        raise UsageError(
            f"user {users[0]!r} has a hash of mosquitto 2.1, which mosquitto {version} cannot read",
            hint=f"Give it another password: mqttkit broker user passwd {users[0]}",
        )


def _unreadable(broker: Broker) -> dict[str, bytes]:
    """Return name and content of each file with a wrong owner or mode, to be written again.

    mosquitto 2.0 reports a file that it cannot read at a reload, and then works without it.
    """
    if broker.running() is None:
        return {}
    found = {}
    for fact in broker.file_facts():
        if fact.directory or fact.link or not fact.name.startswith("config/") or not any(fact.problems()):
            continue
        content = broker.read_file(fact.name)
        if content is not None:
            log.warning("%s %s; mqttkit repairs that", fact.name, next(fact.problems()))
            found[fact.name] = content
    return found


def _reload(
    broker: Broker, changes: Mapping[str, bytes], accounts: AccountFiles, operator: Profile | None = None
) -> None:
    """Write the files with a canary user, reload, send canaries, and remove the canary user again."""
    profile, running = operator or read_profile(broker.paths), broker.running()
    if running is None:
        raise BrokerEnded(f"broker {broker.spec.name!r} ended before the reload", hint="See: mqttkit broker logs")
    if profile is None:
        raise LifecycleError(f"broker {broker.spec.name!r} has no profile", hint="Write it with: mqttkit broker up")
    password = generate_password()
    users = changes.get(PASSWORD_FILE) or broker.read_file(PASSWORD_FILE) or b""
    with_canary = users.rstrip(b"\n") + f"\n{password_line(CANARY, password)}\n".encode()
    _write(broker, {**changes, PASSWORD_FILE: with_canary})
    try:
        broker.signal("HUP")
    except LifecycleError:  # the broker that ends takes the command in its container with it
        if _still_runs(broker, running.pid):
            raise
    canary = replace(operator_login(profile), username=CANARY, password=password)
    _wait_until_read(broker, running.pid, canary)
    _prove_closed(canary, accounts)
    _prove_open_for_operator(profile, accounts)
    broker.write_file(PASSWORD_FILE, users)


def _wait_until_read(broker: Broker, pid: int, canary: Login) -> None:
    """Wait until the broker accepts the canary user, whose password is only in the new file.

    Raises BrokerEnded if the process `pid` ends, also if Docker has started it again.
    """
    deadline = time.monotonic() + RELOAD_SECONDS
    while not _accepted(canary):
        if not _still_runs(broker, pid):
            raise BrokerEnded(
                f"the broker ended because it cannot read the new files: {_last_error(broker)}; "
                "it starts again with the old ones",
                hint="See: mqttkit broker logs",
            )
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the broker did not read its files in {RELOAD_SECONDS:g} s; the old files are back",
                hint="See: mqttkit broker logs",
            )
        time.sleep(POLL_SECONDS)


def _still_runs(broker: Broker, pid: int) -> bool:
    """Return whether the process still runs; False if Docker has replaced it."""
    running = broker.running()
    return running is not None and running.pid == pid


def _last_error(broker: Broker) -> str:
    errors = [line for line in broker.log_lines(tail=20) if "Error" in line]
    return errors[0] if errors else "no error in its log"


def _prove_closed(canary: Login, accounts: AccountFiles) -> None:
    """Raise `BrokerOpened` if the broker accepts a stranger, or lets a user without rights publish."""
    stranger = replace(canary, username=generate_password(), password=generate_password())
    if _accepted(stranger):
        raise BrokerOpened("after the reload the broker accepted a stranger, so mqttkit stopped it", hint=_FIX)
    topic = f"mqttkit/canary/{secrets.token_hex(8)}"
    if check_access(accounts.acl, Access.WRITE, topic, user=CANARY).allowed:
        return  # a pattern allows it to every user, so this canary would prove nothing
    if publish(canary, topic) < 0x80:
        raise BrokerOpened("after the reload the broker checked no ACL, so mqttkit stopped it", hint=_FIX)


def _prove_open_for_operator(profile: Profile, accounts: AccountFiles) -> None:
    """Raise `LifecycleError` if the broker refuses the operator, provided that it is among the users."""
    if profile.username not in accounts.passwords.hashes:
        return
    if not _accepted(operator_login(profile)):
        raise LifecycleError("after the reload the broker refused its operator; the old files are back")


def _accepted(login: Login) -> bool:
    try:
        return ask(login).accepted
    except BrokerUnreachable:
        return False


def _reload_or_stop(broker: Broker) -> None:
    """Make the broker read the old files again, or start it with them if it ended; stop it if neither can be proven."""
    if broker.running() is None:
        broker.up()
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
