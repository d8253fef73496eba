"""The command line as a participant: it publishes events, sends requests and reads what is retained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from mqttkit.client import MqttClient
from mqttkit.controller.configuration import open_codec
from mqttkit.controller.controller import Controller
from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.messages.topics import GLOBAL, Topics
from mqttkit.controller.policies import Policy, parse_policy
from mqttkit.controller.security.gate import SignedCodec, open_message
from mqttkit.controller.security.keys import Key, KeyFile, KeyStatus
from mqttkit.controller.status_book import ControllerStatus, StatusBook
from mqttkit.controller.store import Store
from mqttkit.errors import BrokerUnreachable, UsageError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import ControllerSettings, MqttSettings

QUIET_SECONDS = 0.5
"""The retained messages are complete when no other one has arrived for this time."""
_PREFERRED = ("operator", "global", "regional", "local")


class Operator(Controller):
    """A controller without heartbeats, will and state file. It signs with a key of the ring."""

    role: ClassVar[str] = "operator"
    shows_itself: ClassVar[bool] = False

    def __init__(self, settings: ControllerSettings, mqtt: MqttSettings) -> None:
        named = replace(
            settings,
            id=settings.id or sender_id(settings),
            transports=("mqtt",),
            keep_session=False,
            http_listen=None,
        )
        super().__init__(named, mqtt, store=Store())

    def require_connection(self, timeout: float) -> None:
        """Connect; raise the reason if that fails in `timeout` seconds."""
        if not self.connect_mqtt(timeout):
            assert self.mqtt is not None
            failure = self.mqtt.client.failure
            raise failure or BrokerUnreachable("the broker", "mqtt", f"no answer within {timeout:g} s")


def sender_id(settings: ControllerSettings) -> str:
    """Return who the command line is: the owner of an active key of the ring, or an operator of a shared key."""
    codec = open_codec(settings, signs=False)
    if not isinstance(codec, SignedCodec) or not isinstance(codec.keys, KeyFile):
        return "operator"
    active = [key for key in codec.keys.ring if key.status is KeyStatus.ACTIVE]
    if any(key.is_shared for key in active):
        return "operator"
    owned = [key for key in active if key.owner is not None and key.role is not None]
    if not owned:
        raise UsageError("the key ring has no active key", hint="Make one with: mqttkit controller key generate")
    return str(min(owned, key=lambda key: (_PREFERRED.index(str(key.role)), key.owner)).owner)


@dataclass(frozen=True)
class RetainedPolicy:
    """A policy as the broker has it."""

    policy: Policy
    sender_id: str
    key: Key | None


class RetainedState:
    """What the broker has retained of the controllers: heartbeats and policies, verified."""

    def __init__(self, settings: ControllerSettings, mqtt: MqttSettings) -> None:
        self._topics, self._codec = Topics(settings.base), open_codec(settings, signs=False)
        self.book = StatusBook(self._topics, self._codec)
        self.policies: dict[str, RetainedPolicy] = {}
        self.refused: dict[str, str] = {}
        """Topics of retained policies that a controller would refuse, with the reason."""
        for message in _retained(mqtt, (self._topics.status_filter(), self._topics.policy_filter())):
            self._read(message)

    @property
    def online(self) -> list[ControllerStatus]:
        """The controllers that are online."""
        shown = {row["controller"] for row in self.book.rows() if row["status"] == "online"}
        return [one for name, one in sorted(self.book.controllers.items()) if name in shown]

    def publisher(self, scope: str) -> str | None:
        """Return the online controller that publishes a scope's policy, or None; raise UsageError for several."""
        role = "global" if scope == GLOBAL else "regional"
        found = [
            one.controller_id
            for one in self.online
            if one.detail.get("role") == role and (scope == GLOBAL or one.detail.get("region") == scope)
        ]
        if len(found) > 1:
            raise UsageError(f"{', '.join(found)} publish the policy of {scope}", hint="Name one: --to ID")
        return found[0] if found else None

    def signed_with(self, kid: str) -> list[str]:
        """Return what is retained with the signature of a key: `status/ID` and `policy/SCOPE`."""
        statuses = [f"status/{name}" for name, one in sorted(self.book.controllers.items()) if one.kid == kid]
        policies = [f"policy/{scope}" for scope, one in self.policies.items() if one.key and one.key.kid == kid]
        return statuses + policies

    def _read(self, message: Message) -> None:
        if "/status/" in message.topic:
            self.book.note(message.topic, message.payload, retained=message.retain)
            return
        try:
            place = self._topics.place(message.topic)
            opened = open_message(self._codec, place, message.payload)
            policy = parse_policy(place.region, opened.envelope.payload)
        except MessageRefused as error:
            self.refused[message.topic] = error.message
            return
        envelope = opened.envelope
        self.policies[policy.scope] = RetainedPolicy(policy, envelope.sender_id, opened.key)


def find_publisher(settings: ControllerSettings, mqtt: MqttSettings, scope: str, timeout: float) -> str:
    """Return the controller that publishes a scope's policy, as soon as it is online; raise UsageError at the end."""
    deadline = time.monotonic() + timeout
    while (found := RetainedState(settings, mqtt).publisher(scope)) is None:
        if time.monotonic() >= deadline:
            role = "global" if scope == GLOBAL else "regional"
            text = f"no {role} controller that publishes the policy of {scope} is online"
            raise UsageError(text, hint=f"Start one: mqttkit controller {role}")
    return found


def _retained(mqtt: MqttSettings, filters: tuple[str, ...]) -> Iterator[Message]:
    """Yield the retained messages of some filters, and what arrives with them; raise what the client raises."""
    plain = replace(mqtt, client=replace(mqtt.client, client_id="", clean_session=True, session_expiry=0))
    with MqttClient(plain, retry=False) as client:
        client.connect(timeout=10)
        client.subscribe(*(Subscription(one) for one in filters))
        last = time.monotonic()
        for message in client.messages(timeout=QUIET_SECONDS):
            now = time.monotonic()
            if message.retain:
                last = now
            elif now - last > QUIET_SECONDS:
                return
            yield message
