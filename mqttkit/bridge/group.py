"""The members of a group of bridges: each tells the others that it runs, and notices a member that is missing.

A broker assigns messages of a shared subscription to every session that has it, also while its bridge is away. So a
member that stopped without leaving keeps a share of the messages from the others, and somebody must know.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mqttkit.addresses import show_address
from mqttkit.bridge.canary import Canary
from mqttkit.bridge.metric import reserved_prefix
from mqttkit.bridge.session import PasswordWatch, for_another_client
from mqttkit.client import ConnectionState, MqttClient
from mqttkit.client.control import connection_number
from mqttkit.errors import BrokerUnreachable, MqttkitError, SubscriptionDenied
from mqttkit.messages import Message, Outcome, Properties
from mqttkit.settings import MqttSettings

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Seconds between messages that say that a member runs."""
MISSING_SECONDS = 20.0
"""A member that was silent for so long is missing."""
ANSWER_SECONDS = 5.0
"""How long to wait for a SUBACK, a canary or a PUBACK."""
MQTT_5 = 5
MAX_MEMBERS = 1_000
"""Members that are remembered."""


@dataclass
class Member:
    """Another bridge of the group."""

    client_id: str
    host: str
    """Name of the machine on which it runs."""
    expires: float
    """Seconds after which the broker drops its session."""
    heard_at: float
    """Monotonic clock."""


class Members:
    """The other members of a group, and when each was last heard. Any thread may call the methods."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._members: dict[str, Member] = {}

    def hear(self, client_id: str, payload: bytes, now: float) -> None:
        """Handle a member's message. An empty one says that the member has left."""
        if client_id == self._own:
            return
        if not payload:
            self._members.pop(client_id, None)
            return
        try:
            found = json.loads(payload)
            member = Member(client_id, str(found["host"])[:100], float(found["expires"]), now)
        except (ValueError, TypeError, KeyError, RecursionError):
            logger.debug("not a member's message: %r", payload[:100])
            return
        if client_id in self._members or len(self._members) < MAX_MEMBERS:
            self._members[client_id] = member

    def missing(self, now: float, *, connected_at: float) -> list[Member]:
        """Return the members that were silent too long, by name. Before `connected_at` this bridge could not hear."""
        for name, member in list(self._members.items()):
            if now - member.heard_at > member.expires:
                self._members.pop(name, None)
        members = sorted(self._members.values(), key=lambda member: member.client_id)
        return [member for member in members if now - max(member.heard_at, connected_at) > MISSING_SECONDS]


class GroupWatch:
    """A second connection of a bridge, for what must not wait behind metrics: a proof of sharing, and the members.

    Call `tick`, `prove_sharing` and `leave` from one thread at a time, `warnings` and `missing` from any.
    """

    def __init__(
        self, settings: MqttSettings, *, group: str, prefix: str, client_id: str, runs: Callable[[], bool]
    ) -> None:
        """`prefix` is reserved, `client_id` the bridge's. `runs` returns True while the bridge has its share."""
        self._expires = settings.client.session_expiry
        self._group = group
        self._topic = member_topic(prefix, group, client_id)
        self._everyone = member_topic(prefix, group, "")
        self._canary = Canary(prefix)
        self._runs = runs
        self._members = Members(client_id)
        self._epoch = 0
        self._connected_at = self._beat_at = 0.0
        self._known_missing: set[str] = set()
        self._password = PasswordWatch(settings.broker)
        own = for_another_client(settings, client_id=None, clean_session=True, session_expiry=0)
        self._client = MqttClient(own, on_message=self._receive, on_state=self._note_state)

    def __enter__(self) -> GroupWatch:
        """Begin to connect."""
        self._client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(flush=0.0)

    def prove_sharing(self) -> None:
        """Raise SubscriptionDenied if shared subscriptions deliver nothing, BrokerUnreachable if it cannot test."""
        if not self._client.wait_connected(ANSWER_SECONDS):
            why = f"no second connection to test shared subscriptions: {self._client.failure or 'no answer'}"
            raise BrokerUnreachable(show_address(*self._client.address), "mqtt", why)
        self._canary.check_shared(self._client, timeout=ANSWER_SECONDS)

    def tick(self) -> None:
        """Subscribe to the members after each connection, say that this bridge runs, and log who is missing."""
        if not self._client.connected:
            return
        try:
            self._subscribe()
            self._beat()
        except MqttkitError as error:
            logger.debug("cannot watch the group %s: %s", self._group, error)
        self._log_changes()

    def missing(self) -> list[Member]:
        """Return the members that are missing."""
        if not self._client.connected or not self._connected_at:
            return []
        return self._members.missing(time.monotonic(), connected_at=self._connected_at)

    def warnings(self) -> list[str]:
        """Return one line for each missing member."""
        return [self._describe(member) for member in self.missing()]

    def leave(self) -> None:
        """Tell the others that this bridge has left."""
        if self._client.wait_connected(ANSWER_SECONDS):
            self._client.publish(self._topic, b"", qos=1, retain=True).wait(ANSWER_SECONDS)

    def _receive(self, message: Message) -> None:
        """Handle a message; called in the network thread."""
        if message.topic.startswith(self._everyone):
            name = unquote(message.topic[len(self._everyone) :])
            self._members.hear(name, message.payload, time.monotonic())
        else:
            self._canary.receive(message)

    def _note_state(self, state: ConnectionState, _reason: str) -> None:
        if state is not ConnectionState.CONNECTED:
            self._password.refresh(self._client)

    def _subscribe(self) -> None:
        number = connection_number(self._client)
        if number == self._epoch:
            return
        self._connected_at = time.monotonic()
        try:
            self._client.subscribe(self._everyone + "+", timeout=ANSWER_SECONDS)
        except SubscriptionDenied as error:
            logger.warning("members of the group cannot be watched: %s", error)
        self._epoch = number

    def _beat(self) -> None:
        now = time.monotonic()
        if not self._runs() or (self._beat_at and now - self._beat_at < BEAT_SECONDS):
            return
        first, self._beat_at = not self._beat_at, now
        expiry = Properties(message_expiry_interval=max(1, self._expires))
        payload = json.dumps({"host": socket.gethostname(), "expires": self._expires})
        receipt = self._client.publish(
            self._topic,
            payload,
            qos=int(first),
            retain=True,
            properties=expiry if self._client.protocol_version >= MQTT_5 else None,
        )
        if first and receipt.wait(ANSWER_SECONDS) is Outcome.DENIED:
            logger.warning(
                "the broker denies publishing to %s: other members cannot see this one. Allow %s for its user",
                self._topic,
                self._everyone + "#",
            )

    def _log_changes(self) -> None:
        missing = {member.client_id: member for member in self.missing()}
        for name in sorted(missing.keys() - self._known_missing):
            logger.warning("%s", self._describe(missing[name]))
        for name in sorted(self._known_missing - missing.keys()):
            logger.info("member %s of the group %s is back, or has left", name, self._group)
        self._known_missing = set(missing)

    def _describe(self, member: Member) -> str:
        return (
            f"member {member.client_id} of the group {self._group} on {member.host} is missing, and the broker keeps"
            f" its share of the messages. Start it again, or run with its --sink and --tenants:"
            f" mqttkit bridge leave --group {self._group} -i {member.client_id}"
        )


def member_topic(prefix: str, group: str, client_id: str) -> str:
    """Return the topic on which a member says that it runs; `prefix` is the reserved one."""
    return f"{prefix}group/{group}/{quote(client_id, safe='')}"


def forget_member(mqtt: MqttSettings, topic_filter: str, client_id: str) -> None:
    """Tell the group of a shared subscription that a member has left; do nothing for another filter."""
    if not topic_filter.startswith("$share/"):
        return
    _, group, inner = topic_filter.split("/", 2)
    topic = member_topic(reserved_prefix(inner.removesuffix("#")), group, client_id)
    own = for_another_client(mqtt, client_id=None, clean_session=True, session_expiry=0)
    with MqttClient(own, retry=False) as last:
        last.connect(timeout=ANSWER_SECONDS)
        last.publish(topic, b"", qos=1, retain=True).result(ANSWER_SECONDS)
