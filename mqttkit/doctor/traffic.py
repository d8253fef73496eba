"""The steps of a visit that send messages, all on the topics of that visit."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator

from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.client import MqttClient
from mqttkit.doctor.visit import SECONDS, Visit
from mqttkit.errors import SubscriptionDenied
from mqttkit.messages import Message, Outcome, Subscription

TRIPS = 20
"""Messages of the round trip."""
PACKET_BYTES = 300
"""What a packet with every byte value takes, without its topic."""
CHOOSE = "name topics that you may use with --topic, or run: mqttkit broker acl grant USER readwrite FILTER"


class MessageCollector:
    """A connection that collects messages."""

    def __init__(self, visit: Visit) -> None:
        self.messages: list[Message] = []
        self._condition = threading.Condition()
        self.client: MqttClient = visit.client(self._take)
        self.client.connect(timeout=2 * SECONDS)

    def wait(self, wanted: Callable[[Message], bool], seconds: float = SECONDS) -> Message | None:
        """Return the first message for which `wanted` is true, or None if none arrives in time."""
        with self._condition:
            self._condition.wait_for(lambda: any(map(wanted, self.messages)), seconds)
            return next(filter(wanted, self.messages), None)

    def _take(self, message: Message) -> None:
        with self._condition:
            self.messages.append(message)
            self._condition.notify_all()


def suback(visit: Visit) -> Iterator[Result]:
    """Subscribe to a topic of this visit."""
    try:
        granted = visit.main_client().subscribe(Subscription(f"{visit.topic}/#", 2), timeout=SECONDS)
    except SubscriptionDenied as error:
        yield failed(f"{error.topic_filter} is denied: {error.reason}", CHOOSE)
        return
    if granted[0] < 1:
        yield warned("granted with QoS 0 only: messages may be lost", "use a broker with QoS 1")
    else:
        yield passed(f"{visit.topic}/# granted with QoS {granted[0]}")


def publish(visit: Visit) -> Iterator[Result]:
    """Publish to a topic of this visit with QoS 1."""
    receipt = visit.main_client().publish(f"{visit.topic}/publish", b"doctor", qos=1)
    outcome = receipt.wait(SECONDS)
    if outcome is Outcome.ACKNOWLEDGED and visit.main_client().protocol_version == 5:
        yield passed("acknowledged")
    elif outcome is Outcome.ACKNOWLEDGED:
        yield not_checked("acknowledged, but an MQTT 3.1.1 broker also acknowledges a denied publish: see round-trip")
    elif outcome is Outcome.DENIED:
        yield failed(f"{visit.topic}/publish is denied: {receipt.reason}", CHOOSE)
    else:
        yield failed(f"not acknowledged in {SECONDS:g} s: {receipt.reason or 'no answer'}", "is the broker overloaded?")


def round_trip(visit: Visit) -> Iterator[Result]:
    """Publish messages that contain every byte value, and receive them."""
    collector = MessageCollector(visit)
    topic = f"{visit.topic}/round-trip"
    collector.client.subscribe(Subscription(topic, 1), timeout=SECONDS)
    times = []
    limit = visit.main_client().broker_limits.max_packet
    every = b"" if limit and limit < len(topic) + PACKET_BYTES else bytes(range(256))
    for _ in range(TRIPS):
        payload = every + secrets.token_bytes(8)
        begin = time.monotonic()
        receipt = visit.main_client().publish(topic, payload, qos=1)
        if collector.wait(lambda message, wanted=payload: message.payload == wanted) is None:  # type: ignore[misc]  # of a default
            if receipt.outcome is not Outcome.ACKNOWLEDGED:
                reason = receipt.reason or "no answer"
                yield failed(f"a publish of {len(payload)} bytes to {topic} failed: {reason}", "see the limits above")
                return
            yield failed(
                f"nothing came back on {topic}: the broker acknowledged, but its ACL may deny the messages",
                CHOOSE,
            )
            return
        times.append(1000 * (time.monotonic() - begin))
    yield passed(f"{TRIPS} of {TRIPS} came back unchanged, {sorted(times)[TRIPS // 2]:.1f} ms in the median")


def retained(visit: Visit) -> Iterator[Result]:
    """Publish a retained message, receive it on a new connection, and clear it."""
    topic = f"{visit.topic}/retained"
    sender = visit.main_client()
    sender.publish(topic, b"kept", qos=1, retain=True).wait(SECONDS)
    try:
        collector = MessageCollector(visit)
        collector.client.subscribe(Subscription(topic, 1), timeout=SECONDS)
        kept = collector.wait(lambda message: message.retain and message.payload == b"kept")
        by_wildcard = kept is not None and _delivers_to_wildcards(visit)
    finally:
        sender.publish(topic, b"", qos=1, retain=True).wait(SECONDS)
    if kept is None:
        yield warned("the broker keeps no retained message", "retained state and status topics do not work")
        return
    late = MessageCollector(visit)
    late.client.subscribe(Subscription(topic, 1), Subscription(f"{visit.topic}/sentinel", 1), timeout=SECONDS)
    sender.publish(f"{visit.topic}/sentinel", b"now", qos=1)
    late.wait(lambda message: message.payload == b"now")
    if any(message.retain for message in late.messages):
        yield warned(f"the retained message on {topic} was not cleared", f"mqttkit pub -r -n -t {topic}")
    else:
        yield passed("kept, delivered to a new subscription, cleared")
    if not by_wildcard:
        fix = "subscribe to each topic by its name; sub --retained-only with a wildcard prints nothing"
        yield warned("the broker does not deliver retained messages to topic filters with wildcards", fix)


def _delivers_to_wildcards(visit: Visit) -> bool:
    """Return whether a new subscription with a wildcard gets the retained message (not with RabbitMQ)."""
    collector = MessageCollector(visit)
    collector.client.subscribe(Subscription(f"{visit.topic}/#", 1), timeout=SECONDS)
    return collector.wait(lambda message: message.retain and message.payload == b"kept") is not None


def shared(visit: Visit) -> Iterator[Result]:
    """Subscribe in a group: some brokers grant that and deliver nothing."""
    collector = MessageCollector(visit)
    topic = f"{visit.topic}/shared"
    fix = "give each worker its own topics with this broker"
    try:
        collector.client.subscribe(Subscription(f"$share/mqttkit-doctor/{topic}", 1), timeout=SECONDS)
    except SubscriptionDenied as error:
        yield warned(f"denied: {error.reason}", fix)
        return
    visit.main_client().publish(topic, b"shared", qos=1)
    if collector.wait(lambda message: message.payload == b"shared") is None:
        yield warned("granted, but the broker delivers nothing", fix)
    else:
        yield passed("granted and delivered")


def wide(visit: Visit) -> Iterator[Result]:
    """Subscribe to # and $SYS/# until our own message arrives; every other message shows a topic that we can read."""
    collector = MessageCollector(visit)
    for one in ("#", "$SYS/#"):
        try:
            collector.client.subscribe(Subscription(one, 1), timeout=SECONDS)
        except SubscriptionDenied:
            yield passed(f"{one} is denied")
    topic = f"{visit.topic}/sentinel"
    collector.client.subscribe(Subscription(topic, 1), timeout=SECONDS)
    visit.main_client().publish(topic, b"wide", qos=1)
    collector.wait(lambda message: message.payload == b"wide")
    tops = {
        message.topic.split("/", 1)[0] for message in collector.messages if not message.topic.startswith(visit.topic)
    }
    seen = sorted(tops)
    if seen:
        shown = ", ".join(f"{top}/…" for top in seen[:5])
        yield warned(f"we can read topics of others: {shown}", "fine for an operator; a device should have an ACL")
    else:
        yield passed("no topic of others arrived on # and $SYS/#")
