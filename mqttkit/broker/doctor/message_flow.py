"""Checks of what reaches whom: a user with hardly any right publishes and listens where it must not."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator

from mqttkit.broker.accounts.acl_simulator import check_subscription
from mqttkit.broker.doctor.examined_broker import Patient
from mqttkit.broker.doctor.findings import Outcome, failed, passed, warned
from mqttkit.broker.mosquitto.configuration import OPERATOR, PROBE
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError, SubscriptionDenied
from mqttkit.messages import Message, Subscription
from mqttkit.messages import Outcome as Published

SECONDS = 10.0
OWN = "mqttkit/probe/"
SENTINEL = f"{OWN}doctor"
"""The probe may read and write it: what was to come before it has come when it comes."""


class Heard:
    """What the operator and the probe heard while each published to one topic."""

    def __init__(self) -> None:
        self.by_operator: set[tuple[str, bytes]] = set()
        self.by_probe: set[tuple[str, bytes]] = set()
        self.denied = False
        """The broker told the probe that it may not publish there."""


def forbidden_topic(patient: Patient) -> Iterator[Outcome]:
    """Publish to a forbidden topic as the probe, and listen to it as the probe: nothing may pass."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    heard = exchange(patient, topic, listen=(topic,))
    mend = f"mqttkit broker acl lint{patient.spec_name}, then: mqttkit broker reload{patient.spec_name}"
    if (topic, b"probe") in heard.by_operator:
        yield failed("what a user without rights publishes is delivered", mend)
    elif heard.denied:
        yield passed("a publish by a user without rights is denied, and not delivered")
    else:
        yield warned("a publish by a user without rights is not delivered, and the user is not told", mend)
    if (topic, b"operator") in heard.by_probe:
        yield failed("a user without rights is delivered a topic that it subscribes to", mend)
    else:
        yield passed("a subscription by a user without rights delivers nothing")


def wide_filters(patient: Patient) -> Iterator[Outcome]:
    """Subscribe to # and $SYS/# as the probe; and name the users whose rules open them."""
    topic = f"mqttkit/forbidden/{secrets.token_hex(8)}"
    heard = exchange(patient, topic, listen=("#", "$SYS/#"))
    tops = sorted({name.split("/", 1)[0] for name, _ in heard.by_probe if not name.startswith(OWN)})
    if tops:
        named = ", ".join(f"{top}/…" for top in tops)
        yield failed(f"a user without rights is delivered {named}", f"mqttkit broker acl lint{patient.spec_name}")
    else:
        yield passed("a user without rights hears nothing on # and $SYS/#")
    for name in sorted(set(patient.accounts.passwords.hashes) - {OPERATOR, PROBE}):
        verdicts = {one: check_subscription(patient.accounts.acl, one, user=name) for one in ("#", "$SYS/#")}
        if wide := [one for one, verdict in verdicts.items() if verdict.allowed and verdict.complete]:
            mend = f"mqttkit broker acl revoke {name} read '{wide[0]}'{patient.spec_name}"
            yield warned(f"user {name!r} may read all of {' and '.join(wide)}", mend)


def exchange(patient: Patient, topic: str, *, listen: tuple[str, ...]) -> Heard:
    """Let operator and probe publish to `topic` while both listen, and wait until both heard a sentinel.

    The operator listens to `topic`, the probe to the filters `listen`. Raises `LifecycleError` where the sentinel,
    which both may read, does not come.
    """
    profile, heard = patient.profile, Heard()
    come = {"operator": threading.Event(), "probe": threading.Event()}
    with contextlib.ExitStack() as stack:

        def client(who: str, into: set[tuple[str, bytes]], username: str | None, password: str | None) -> MqttClient:
            handler = _collect(into, topic.encode(), come[who])
            made = stack.enter_context(patient.client(username, password, on_message=handler))
            made.connect(timeout=SECONDS)
            return made

        operator = client("operator", heard.by_operator, profile.username, profile.password)
        probe = client("probe", heard.by_probe, profile.probe_username, profile.probe_password)
        operator.subscribe(Subscription(topic, 1), Subscription(SENTINEL, 1))
        for one in (*listen, SENTINEL):
            with contextlib.suppress(SubscriptionDenied):
                probe.subscribe(Subscription(one, 1))
        heard.denied = probe.publish(topic, b"probe", qos=1).wait(SECONDS) is Published.DENIED
        operator.publish(topic, b"operator", qos=1).wait(SECONDS)
        operator.publish(SENTINEL, topic.encode(), qos=1).wait(SECONDS)
        for who, event in come.items():
            if not event.wait(SECONDS):
                raise LifecycleError(f"the {who} was not delivered {SENTINEL!r}, which it may read")
    return heard


def _collect(into: set[tuple[str, bytes]], sentinel: bytes, come: threading.Event) -> Callable[[Message], None]:
    def handle(message: Message) -> None:
        into.add((message.topic, message.payload))
        if message.payload == sentinel and message.topic == SENTINEL:
            come.set()

    return handle
