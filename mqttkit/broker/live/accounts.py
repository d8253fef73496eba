"""Change the accounts of a broker by a safe reload, and prove its rules with canaries."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace

from mqttkit.broker.accounts.acl import Access, AclFile
from mqttkit.broker.accounts.acl_simulator import AclDecision, check_access, check_subscription, intersection
from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.broker.live.reload import apply_changes
from mqttkit.broker.mosquitto.configuration import first_acl
from mqttkit.broker.profile import Profile, locked, read_profile, save_profile
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError
from mqttkit.messages import Message, Outcome, Subscription
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings
from mqttkit.topics import split_share

LIVE_SECONDS = 10.0
SUBSCRIBE = "subscribe"


def read_accounts(broker: Broker) -> AccountFiles:
    """Return the broker's users and ACL; raise UsageError if its backend has none, or a file is invalid."""
    require(broker, Feature.USERS, "accounts")
    return AccountFiles.parse(broker.read_file(PASSWORD_FILE), broker.read_file(ACL_FILE))


def change_accounts(broker: Broker, edit: Callable[[AccountFiles], AccountFiles]) -> bool:
    """Change users and ACL, also of a running broker; return whether it is running.

    Raises the errors of `edit` and of `apply_changes`.
    """
    require(broker, Feature.USERS, "accounts")
    with locked(broker.paths):
        before = read_accounts(broker)
        changes = edit(before).changed_from(before)
        if not changes:
            return broker.running() is not None
        for name in (PASSWORD_FILE, ACL_FILE):
            # Writing an unchanged file again gives it the owner and mode that the broker needs to read it.
            changes.setdefault(name, broker.read_file(name) or b"")
        return apply_changes(broker, changes)


def replace_acl(broker: Broker, acl: AclFile) -> bool:
    """Give the broker another ACL; return whether it is running."""
    require(broker, Feature.ACL, "an ACL")
    with locked(broker.paths):
        return apply_changes(broker, {ACL_FILE: acl.render().encode()})


def reset_acl(broker: Broker) -> list[str]:
    """Remove the lines of the ACL file that mosquitto rejects; return them.

    A missing file becomes that of a new broker.
    """
    require(broker, Feature.ACL, "an ACL")
    content = broker.read_file(ACL_FILE)
    if content is None:
        replace_acl(broker, AclFile.parse(first_acl(anonymous=broker.spec.anonymous)))
        return ["(all): the file was missing"]
    acl, dropped = AclFile.salvage(content.decode(errors="replace"))
    if dropped:
        replace_acl(broker, acl)
    return dropped


def set_operator_password(broker: Broker, password: str, *, iterations: int) -> None:
    """Give the operator another password, in the broker and in the profile; its other clients must log in again."""
    require(broker, Feature.USERS, "accounts")
    with locked(broker.paths):
        profile = read_profile(broker.paths)
        if profile is None or profile.username is None:
            raise LifecycleError(f"broker {broker.spec.name!r} has no profile", hint="Write it with: mqttkit broker up")
        files = read_accounts(broker)
        users = files.passwords.with_user(profile.username, password, iterations=iterations)
        new = replace(profile, password=password)
        apply_changes(broker, {PASSWORD_FILE: users.render().encode()}, operator=new)
        save_profile(broker.paths, new)


def decide(acl: AclFile, action: str, topic: str, *, user: str, client_id: str | None = None) -> AclDecision:
    """Return what the rules decide on `read`, `write` or `subscribe`."""
    if action == SUBSCRIBE:
        return check_subscription(acl, topic, user=user, client_id=client_id)
    return check_access(acl, Access(action), topic, user=user, client_id=client_id)


def prove_live(broker: Broker, action: str, topic: str, *, user: str, password: str, decision: AclDecision) -> bool:
    """Try the action on the running broker as that user, with a canary message, and return whether it worked.

    Readers of the topic receive the canary. Raises LifecycleError if the broker does not follow its ACL file,
    ConnectionRefused if the user's password is wrong.
    """
    profile = read_profile(broker.paths)
    if profile is None or broker.running() is None:
        raise LifecycleError(f"broker {broker.spec.name!r} is not running", hint="Start it with: mqttkit broker up")
    login = replace(profile.to_broker_settings(), username=user, password=password)
    if action == Access.WRITE.value:
        happened = _written(login, topic)
    else:
        happened = _delivered(login, profile, topic, example_topic(topic, decision))
    if happened is not decision.allowed:
        raise LifecycleError(
            f"the broker {'allows' if happened else 'denies'} what its ACL file {'denies' if happened else 'allows'}",
            hint="It may use an older file. Reload it with: mqttkit broker reload",
        )
    return happened


def example_topic(topic_filter: str, decision: AclDecision) -> str:
    """Return a topic name that matches the filter and the deciding rule, if there is one."""
    wanted = split_share(topic_filter)[1]
    shared = intersection(decision.rule.topic, wanted) if decision.rule else None
    levels = (shared or wanted).split("/")
    return "/".join("canary" if level in ("+", "#") else level for level in levels)


def _settings(login: BrokerSettings) -> MqttSettings:
    return MqttSettings(broker=login, client=ClientSettings(version="5"))


def _written(login: BrokerSettings, topic: str) -> bool:
    with MqttClient(_settings(login), retry=False) as client:
        client.connect(timeout=LIVE_SECONDS)
        outcome = client.publish(topic, _canary(), qos=1, wait=LIVE_SECONDS).wait(LIVE_SECONDS)
    if outcome not in (Outcome.ACKNOWLEDGED, Outcome.DENIED):
        raise LifecycleError("the broker did not answer the canary")
    return outcome is Outcome.ACKNOWLEDGED


def _delivered(login: BrokerSettings, profile: Profile, wanted: str, topic: str) -> bool:
    """Subscribe as the user, publish as the operator, and return whether the message arrived.

    It cannot be late: the broker sends the SUBACK of the second subscription after every earlier message.
    """
    payload, seen = _canary(), threading.Event()

    def look(message: Message) -> None:
        if message.payload == payload:
            seen.set()

    operator = profile.to_broker_settings()
    with (
        MqttClient(_settings(login), retry=False, on_message=look) as reader,
        MqttClient(_settings(operator), retry=False) as writer,
    ):
        for client in (reader, writer):
            client.connect(timeout=LIVE_SECONDS)
        reader.subscribe(Subscription(wanted, 0))
        outcome = writer.publish(topic, payload, qos=1, wait=LIVE_SECONDS).wait(LIVE_SECONDS)
        if outcome is not Outcome.ACKNOWLEDGED:
            raise LifecycleError(f"the operator may not publish to {topic}, so nothing can be proven")
        reader.subscribe(Subscription(f"mqttkit/barrier/{secrets.token_hex(4)}", 0))
        return seen.is_set()


def _canary() -> bytes:
    return f"mqttkit-canary-{secrets.token_hex(8)}".encode()
