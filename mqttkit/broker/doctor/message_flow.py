"""Checks of the ACL: a user with few rights publishes and subscribes to topics that it must not use."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator

from mqttkit.broker.accounts.acl_simulator import check_subscription
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Result, failed, passed, warned
from mqttkit.broker.mosquitto.configuration import OPERATOR, PROBE
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError, SubscriptionDenied
from mqttkit.messages import Message, Outcome, Subscription

SECONDS = 10.0
OWN = "mqttkit/probe/"
SENTINEL = f"{OWN}doctor"
"""The probe may read and write this topic. When a message arrives on it, every earlier message has arrived."""


class Deliveries:
    """What the broker delivered to the operator and to the probe while each published to one topic."""

    def __init__(self) -> None:
        self.to_operator: set[tuple[str, bytes]] = set()
        self.to_probe: set[tuple[str, bytes]] = set()
        self.denied = False
        """Whether the broker told the probe that it may not publish there."""


def forbidden_topic(examined: ExaminedBroker) -> Iterator[Result]:
    """Publish to a forbidden topic as the probe, and subscribe to it as the probe: the broker must deliver nothing."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    delivered = exchange(examined, topic, listen=(topic,))
    fix = f"mqttkit broker acl lint{examined.name_option}, then: mqttkit broker reload{examined.name_option}"
    if (topic, b"probe") in delivered.to_operator:
        yield failed("the broker delivers what a user without rights publishes", fix)
    elif delivered.denied:
        yield passed("the broker denies a publish by a user without rights, and does not deliver it")
    else:
        yield warned("the broker drops a publish by a user without rights, but does not tell the user", fix)
    if (topic, b"operator") in delivered.to_probe:
        yield failed("the broker delivers a forbidden topic to a user without rights", fix)
    else:
        yield passed("the broker delivers nothing to a subscription by a user without rights")


def wide_filters(examined: ExaminedBroker) -> Iterator[Result]:
    """Subscribe to # and $SYS/# as the probe, and name the users whose rules allow that."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    delivered = exchange(examined, topic, listen=("#", "$SYS/#"))
    tops = sorted({name.split("/", 1)[0] for name, _ in delivered.to_probe if not name.startswith(OWN)})
    if tops:
        named = ", ".join(f"{top}/…" for top in tops)
        yield failed(
            f"the broker delivers {named} to a user without rights", f"mqttkit broker acl lint{examined.name_option}"
        )
    else:
        yield passed("the broker delivers nothing on # and $SYS/# to a user without rights")
    for name in sorted(set(examined.accounts.passwords.hashes) - {OPERATOR, PROBE}):
        decisions = {one: check_subscription(examined.accounts.acl, one, user=name) for one in ("#", "$SYS/#")}
        if allowed := [one for one, decision in decisions.items() if decision.allowed and decision.complete]:
            fix = f"mqttkit broker acl revoke {name} read '{allowed[0]}'{examined.name_option}"
            yield warned(f"user {name!r} may read all of {' and '.join(allowed)}", fix)


def exchange(examined: ExaminedBroker, topic: str, *, listen: tuple[str, ...]) -> Deliveries:
    """Let operator and probe publish to `topic` while both subscribe, and wait until both received a sentinel.

    The operator subscribes to `topic`, the probe to the filters `listen`. Raises `LifecycleError` if the sentinel,
    which both may read, does not arrive.
    """
    profile, delivered = examined.profile, Deliveries()
    arrived = {"operator": threading.Event(), "probe": threading.Event()}
    with contextlib.ExitStack() as stack:

        def connected(who: str, into: set[tuple[str, bytes]], username: str | None, password: str | None) -> MqttClient:
            handler = _collect(into, topic.encode(), arrived[who])
            made = stack.enter_context(examined.client(username, password, on_message=handler))
            made.connect(timeout=SECONDS)
            return made

        operator = connected("operator", delivered.to_operator, profile.username, profile.password)
        probe = connected("probe", delivered.to_probe, profile.probe_username, profile.probe_password)
        operator.subscribe(Subscription(topic, 1), Subscription(SENTINEL, 1))
        for one in (*listen, SENTINEL):
            with contextlib.suppress(SubscriptionDenied):
                probe.subscribe(Subscription(one, 1))
        delivered.denied = probe.publish(topic, b"probe", qos=1).wait(SECONDS) is Outcome.DENIED
        operator.publish(topic, b"operator", qos=1).wait(SECONDS)
        operator.publish(SENTINEL, topic.encode(), qos=1).wait(SECONDS)
        for who, event in arrived.items():
            if not event.wait(SECONDS):
                raise LifecycleError(f"the {who} did not receive {SENTINEL!r}, which it may read")
    return delivered


def _collect(into: set[tuple[str, bytes]], sentinel: bytes, arrived: threading.Event) -> Callable[[Message], None]:
    def handle(message: Message) -> None:
        into.add((message.topic, message.payload))
        if message.payload == sentinel and message.topic == SENTINEL:
            arrived.set()

    return handle
