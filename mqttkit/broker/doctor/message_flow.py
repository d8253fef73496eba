"""Checks of what reaches whom: a user with hardly any right publishes and listens where it must not."""

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
"""The probe may read and write it: what was to arrived before it has arrived when it comes."""


class Deliveries:
    """What the operator and the probe delivered while each published to one topic."""

    def __init__(self) -> None:
        self.to_operator: set[tuple[str, bytes]] = set()
        self.to_probe: set[tuple[str, bytes]] = set()
        self.denied = False
        """The broker told the probe that it may not publish there."""


def forbidden_topic(examined: ExaminedBroker) -> Iterator[Result]:
    """Publish to a forbidden topic as the probe, and listen to it as the probe: nothing may pass."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    delivered = exchange(examined, topic, listen=(topic,))
    fix = f"mqttkit broker acl lint{examined.spec_name}, then: mqttkit broker reload{examined.spec_name}"
    if (topic, b"probe") in delivered.to_operator:
        yield failed("what a user without rights publishes is delivered", fix)
    elif delivered.denied:
        yield passed("a publish by a user without rights is denied, and not delivered")
    else:
        yield warned("a publish by a user without rights is not delivered, and the user is not told", fix)
    if (topic, b"operator") in delivered.to_probe:
        yield failed("a user without rights is delivered a topic that it subscribes to", fix)
    else:
        yield passed("a subscription by a user without rights delivers nothing")


def wide_filters(examined: ExaminedBroker) -> Iterator[Result]:
    """Subscribe to # and $SYS/# as the probe; and name the users whose rules open them."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    delivered = exchange(examined, topic, listen=("#", "$SYS/#"))
    tops = sorted({name.split("/", 1)[0] for name, _ in delivered.to_probe if not name.startswith(OWN)})
    if tops:
        named = ", ".join(f"{top}/…" for top in tops)
        yield failed(f"a user without rights is delivered {named}", f"mqttkit broker acl lint{examined.spec_name}")
    else:
        yield passed("a user without rights hears nothing on # and $SYS/#")
    for name in sorted(set(examined.accounts.passwords.hashes) - {OPERATOR, PROBE}):
        decisions = {one: check_subscription(examined.accounts.acl, one, user=name) for one in ("#", "$SYS/#")}
        if wide := [one for one, decision in decisions.items() if decision.allowed and decision.complete]:
            fix = f"mqttkit broker acl revoke {name} read '{wide[0]}'{examined.spec_name}"
            yield warned(f"user {name!r} may read all of {' and '.join(wide)}", fix)


def exchange(examined: ExaminedBroker, topic: str, *, listen: tuple[str, ...]) -> Deliveries:
    """Let operator and probe publish to `topic` while both listen, and wait until both delivered a sentinel.

    The operator listens to `topic`, the probe to the filters `listen`. Raises `LifecycleError` where the sentinel,
    which both may read, does not arrived.
    """
    profile, delivered = examined.profile, Deliveries()
    arrived = {"operator": threading.Event(), "probe": threading.Event()}
    with contextlib.ExitStack() as stack:

        def client(who: str, into: set[tuple[str, bytes]], username: str | None, password: str | None) -> MqttClient:
            handler = _collect(into, topic.encode(), arrived[who])
            made = stack.enter_context(examined.client(username, password, on_message=handler))
            made.connect(timeout=SECONDS)
            return made

        operator = client("operator", delivered.to_operator, profile.username, profile.password)
        probe = client("probe", delivered.to_probe, profile.probe_username, profile.probe_password)
        operator.subscribe(Subscription(topic, 1), Subscription(SENTINEL, 1))
        for one in (*listen, SENTINEL):
            with contextlib.suppress(SubscriptionDenied):
                probe.subscribe(Subscription(one, 1))
        delivered.denied = probe.publish(topic, b"probe", qos=1).wait(SECONDS) is Outcome.DENIED
        operator.publish(topic, b"operator", qos=1).wait(SECONDS)
        operator.publish(SENTINEL, topic.encode(), qos=1).wait(SECONDS)
        for who, event in arrived.items():
            if not event.wait(SECONDS):
                raise LifecycleError(f"the {who} was not delivered {SENTINEL!r}, which it may read")
    return delivered


def _collect(into: set[tuple[str, bytes]], sentinel: bytes, arrived: threading.Event) -> Callable[[Message], None]:
    def handle(message: Message) -> None:
        into.add((message.topic, message.payload))
        if message.payload == sentinel and message.topic == SENTINEL:
            arrived.set()

    return handle
