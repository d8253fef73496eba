"""The bridge's subscription: subscribe after each connection, and check regularly that it delivers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from mqttkit.bridge.canary import Canary, CanaryResult
from mqttkit.bridge.metric import check_metric_template, template_filter
from mqttkit.bridge.sparkplug.topic import FILTER as SPARKPLUG_FILTER
from mqttkit.client import MqttClient
from mqttkit.client.control import connection_number
from mqttkit.errors import BrokerUnreachable, SubscriptionDenied, UsageError
from mqttkit.messages import Subscription
from mqttkit.settings import BridgeSettings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
"""How long to wait for a SUBACK or a canary."""
FIRST_WAIT = 1.0
"""Seconds after a denial before the first new attempt; the wait doubles up to the check interval."""
NO_PERMISSION, NO_SHARING = 0x87, 0x9E
MQTT_5 = 5
ONLY_NEW, NEVER = 1, 2
"""Retain handling: subscribing again must not bring all retained messages again (MQTT 5, 3.8.3.1)."""


def bridge_filter(settings: BridgeSettings) -> str:
    """Return the topic filter to subscribe to: a shared subscription if a group is set."""
    inner = template_filter(check_metric_template(settings.topic))
    return f"$share/{settings.group}/{inner}" if settings.group else inner


def bridge_filters(settings: BridgeSettings) -> list[str]:
    """Return every topic filter to subscribe to; raise UsageError if a group would distribute a node's messages."""
    if not settings.sparkplug.enabled:
        return [bridge_filter(settings)]
    if settings.group:
        hint = "A node's messages must all reach one bridge, in order. Leave out --group or bridge.sparkplug.enabled"
        raise UsageError("a bridge of a group cannot read Sparkplug", hint=hint)
    own = bridge_filter(settings)
    return [own] if own == "#" else [own, SPARKPLUG_FILTER]  # two that overlap may bring each message twice


class SubscriptionKeeper:
    """Keep topic filters subscribed. Call `tick` from one thread; the other methods from any thread.

    The keeper trusts a SUBACK that denies. If the SUBACK grants, it sends a canary: mosquitto grants
    subscriptions that its access list forbids, and then delivers nothing.
    """

    def __init__(
        self,
        client: MqttClient,
        topic_filters: Sequence[str],
        *,
        canary: Canary,
        check_interval: float,
        retry: bool,
        prove_sharing: Callable[[], None] | None = None,
    ) -> None:
        """The canary goes through the first filter.

        If `retry` is False, a denial of the first subscription raises SubscriptionDenied; others are tried again.

        `prove_sharing` checks on another connection that shared subscriptions deliver: here a canary would wait
        behind all queued messages. It raises SubscriptionDenied.
        """
        self._client = client
        self._filters = topic_filters
        self._canary = canary
        self._interval = check_interval
        self._retry = retry
        self._prove_sharing = prove_sharing
        self._epoch = 0
        self._delivered = False
        self._denied = ""
        self._denied_wait = 0.0
        self._check_at = 0.0

    @property
    def subscribed(self) -> bool:
        """True if the broker has granted the subscription."""
        return self._epoch > 0 and not self._denied

    def problems(self) -> list[str]:
        """Return why the subscription cannot deliver messages; empty if it can."""
        if self._denied:
            return [self._denied]
        return [] if self._epoch == connection_number(self._client) else ["not subscribed yet"]

    def tick(self, *, idle: bool) -> None:
        """Subscribe or check if it is time. `idle` is True if no message would delay a canary.

        Raise SubscriptionDenied for the first subscription, if the broker does not support shared subscriptions or if
        `retry` is off.
        """
        client = self._client
        new = self._epoch != connection_number(client)
        if not client.connected or not (new or time.monotonic() >= self._check_at):
            return
        try:
            self._subscribe(new)
            self._test(idle)
            self._delivered, self._denied_wait = True, 0.0
        except SubscriptionDenied as error:
            self._note_denied(error)
        except BrokerUnreachable as error:
            logger.debug("not subscribed yet: %s", error)

    def _subscribe(self, new: bool) -> None:
        client = self._client
        epoch, first = connection_number(client), self._epoch == 0
        if self._prove_sharing is not None and (new or self._denied):
            self._prove_sharing()
        if new or client.protocol_version >= MQTT_5:  # MQTT 3.1.1 would send every retained message again
            handling = ONLY_NEW if new else NEVER
            wanted = (Subscription(one, qos=1, retain_handling=handling) for one in self._filters)
            client.subscribe(*wanted, timeout=ANSWER_SECONDS)
        if first:
            logger.info("subscribed to %s", ", ".join(self._filters))
        self._epoch, self._check_at = epoch, time.monotonic() + self._interval

    def _test(self, idle: bool) -> None:
        """Send a canary through the subscription if no other message would delay it."""
        if self._prove_sharing is not None or not idle:
            self._note_delivers()
            return
        before = self._client.stats.received
        result = self._canary.send(self._client, timeout=ANSWER_SECONDS)
        missing = result is CanaryResult.MISSING
        if missing and self._client.connected and self._client.stats.received == before:
            reason = f"granted, but a test message did not arrive within {ANSWER_SECONDS:g} s: the ACL may deny reading"
            raise SubscriptionDenied(self._filters[0], reason, code=NO_PERMISSION)
        self._note_delivers()

    def _note_delivers(self) -> None:
        if self._denied:
            logger.warning("the subscription to %s delivers again", ", ".join(self._filters))
        self._denied = ""

    def _note_denied(self, error: SubscriptionDenied) -> None:
        if not self._delivered and (not self._retry or error.code == NO_SHARING):
            raise error
        if not self._denied:
            logger.error("%s; trying again", error)
        self._denied = str(error)
        self._denied_wait = min(self._interval, max(FIRST_WAIT, 2 * self._denied_wait))
        self._epoch, self._check_at = connection_number(self._client), time.monotonic() + self._denied_wait
