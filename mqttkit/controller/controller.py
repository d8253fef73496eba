"""The public methods of every controller: events, policies, requests, and message types of the application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from mqttkit.controller.core import ControllerCore
from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import GLOBAL, SYSTEM, Place, check_prefix
from mqttkit.controller.policies import Policy
from mqttkit.controller.policy_issuer import PolicyIssuer
from mqttkit.controller.receiver import PolicyHandler
from mqttkit.controller.requests.types import ControllerRequest, RequestHandler, RequestRefused
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import ROLES, KeyFile
from mqttkit.controller.transports.types import Promise
from mqttkit.errors import MqttkitError, SubscriptionDenied, UsageError

EventHandler = Callable[[Envelope], None]
Self = TypeVar("Self", bound="Controller")

log = logging.getLogger(__name__)


class Controller(ControllerCore):
    """One controller. `connect_mqtt` starts it and `disconnect_mqtt` ends it; a `with` block does both.

    Any thread may call the public methods. A handler may call only those whose docstring allows it.
    Handlers run in the receiver's thread, one at a time, and may publish; those of requests have their own thread.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._event_handlers: dict[str, list[EventHandler]] = {}
        self._policy_handlers: list[PolicyHandler] = []
        self._own_handlers: dict[tuple[str, str], list[EventHandler]] = {}
        self._not_applied: dict[str, int] = {}
        """Versions of policies whose handler failed, by scope."""
        super().__init__(*arguments, **options)
        scope, wake = self.issues, self._heartbeats.due.set
        self._issuer = None if scope is None else PolicyIssuer(scope, self._store, self._send_policy, wake)
        self._desk.register("ping", lambda _request: {"controller": self.controller_id, "role": self.role})
        self._desk.register("key.check", self._answer_key_check)
        if scope is not None:
            allowed = ("global", "operator") if scope == GLOBAL else ("regional", "global", "operator")
            self._desk.register("policy.set", self._answer_policy_set, allowed)

    def __enter__(self: Self) -> Self:
        self.connect_mqtt()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect_mqtt(flush=5.0 if kind is None else 0.0)

    # --- events and messages of an application ---------------------------------------------------------------------

    def publish_event(self, name: str, data: Mapping[str, Any] | None = None, *, scope: str = SYSTEM) -> Promise:
        """Publish an event to all controllers (`system`) or to one region. A handler may call this."""
        region = GLOBAL if scope == SYSTEM else scope
        return self._publish("event", self.topics.events(scope), {"event": name, "data": data or {}}, region=region)

    def subscribe_to_events(self, handler: EventHandler, *, scope: str = SYSTEM) -> None:
        """Receive the events of the system or of one region; each handler gets them. Raises SubscriptionDenied."""
        self._event_handlers.setdefault(scope, []).append(handler)
        self._subscribe(self.topics.events(scope))

    def publish_message(self, message_type: str, payload: Mapping[str, Any], *, scope: str = SYSTEM) -> Promise:
        """Publish a message of the application's own type, `PREFIX.NAME`, to all controllers or to one region.

        A handler may call this. Raises UsageError for a prefix that is malformed or reserved.
        """
        prefix, dot, name = message_type.partition(".")
        if not dot or not name:
            raise UsageError(f"message type {message_type!r} must be PREFIX.NAME")
        region = GLOBAL if scope == SYSTEM else scope
        return self._publish(message_type, self.topics.messages(prefix, scope), payload, region=region)

    def subscribe_to_messages(self, prefix: str, handler: EventHandler, *, scope: str = SYSTEM) -> None:
        """Register a prefix: `handler` gets the messages whose type begins with it. Raises SubscriptionDenied."""
        topic = self.topics.messages(prefix, scope)
        self._own_handlers.setdefault((prefix, scope), []).append(handler)
        self._subscribe(topic)

    # --- requests --------------------------------------------------------------------------------------------------

    def request(
        self, address: str, type_: str, payload: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Mapping[str, Any]:
        """Ask another controller and return the payload of its answer.

        It never carries the request out after `timeout` seconds, by its clock, or after a reconnect. A handler of a
        request may call this, other handlers may not. Raises RequestRefused if it refuses, RequestFailed if it is
        offline or does not answer.
        """
        if self._receiver.is_current_thread:
            raise UsageError("a handler of messages cannot wait for an answer: the same thread brings the answer")
        self._subscribe(self.topics.answers(self.controller_id))
        self._subscribe(self.topics.status(address))
        return self._requests.ask(address, type_, payload or {}, timeout)

    def answer_requests(self, type_: str, handler: RequestHandler, *, roles: Sequence[str] = ROLES) -> None:
        """Answer requests of the application's own type, `PREFIX.NAME`, with what `handler` returns.

        Only keys of these roles may ask, and those of a region only controllers of the same region; shared keys always
        may. The handler runs in its own thread. If it raises, the answer is an error. Raises UsageError.
        """
        prefix, dot, _ = type_.partition(".")
        if not dot:
            raise UsageError(f"request type {type_!r} must be PREFIX.NAME")
        check_prefix(prefix)
        self._desk.register(type_, handler, roles)

    # --- policies --------------------------------------------------------------------------------------------------

    def subscribe_to_policy_updates(self, handler: PolicyHandler | None = None) -> None:
        """Follow the global policy and this region's policy; each `handler` gets each newer version."""
        if handler is not None:
            self._policy_handlers.append(handler)
        self._subscribe(self.topics.policy(GLOBAL), self.settings.policy_qos)
        self._subscribe(self.topics.policy(self.settings.region), self.settings.policy_qos)

    def policy(self, scope: str = GLOBAL) -> Policy | None:
        """Return the global policy in force, or a region's."""
        return self._receiver.policies.current(scope)

    @property
    def issues(self) -> str | None:
        """The scope whose policy this controller publishes: `global`, its region, or None."""
        return None

    # --- status ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until every message is settled; return whether it is.

        A receipt settles a report, a transport that accepts it any other message.
        """
        return self._sender.flush(timeout)

    @property
    def unsent(self) -> int:
        """Number of messages that no transport has accepted, or whose receipt is missing."""
        return self._sender.waiting

    @property
    def taken(self) -> int:
        """Number of reports that a transport has taken, but that have no receipt yet."""
        return self._sender.taken

    def status(self) -> dict[str, Any]:
        """Return the content of the heartbeat: transport in use, hops, counters, policies."""
        scopes = (GLOBAL, self.settings.region)
        policies = {scope: policy.version for scope in scopes if (policy := self.policy(scope)) is not None}
        applied = {scope: version for scope, version in policies.items() if self._is_applied(scope, version)}
        return {
            "role": self.role,
            "region": self.settings.region,
            "transport": self._sender.current,
            "available": [one.name for one in self.transports if one.available],
            "hops": self._sender.hops,
            "sent": dict(self._sender.sent),
            "unsent": self._sender.waiting,
            "without_receipt": self._sender.taken,
            "unanswered": self._sender.unanswered,
            "dropped": self._sender.dropped,
            "denied": self._sender.denied,
            "clock_offset": round(self._sender.clock.offset, 3),
            "counters": dict(self._receiver.counters),
            "requests": dict(self._desk.counters),
            "policies": policies,
            "applied": applied,
        }

    # --- handling --------------------------------------------------------------------------------------------------

    def _handle_event(self, place: Place, envelope: Envelope) -> None:
        for handler in self._event_handlers.get(place.region, []):
            handler(envelope)

    def _handle_own(self, place: Place, envelope: Envelope) -> None:
        handlers = self._own_handlers.get((place.prefix, place.region))
        if handlers is None:
            text = f"prefix {place.prefix[:40]!r} of {envelope.message_type[:80]!r} is not registered"
            raise MessageRefused(MessageRefusal.UNKNOWN_TYPE, text)
        for handler in handlers:
            handler(envelope)

    def _is_applied(self, scope: str, version: int) -> bool:
        policy = self.policy(scope)
        return self._not_applied.get(scope) != version and policy is not None and self._can_apply(policy)

    def _can_apply(self, policy: Policy) -> bool:
        """Return whether the rules that this controller applies automatically have values that work."""
        return True

    def _handle_policy(self, policy: Policy) -> None:
        self._not_applied[policy.scope] = policy.version
        for handler in self._policy_handlers:
            handler(policy)
        del self._not_applied[policy.scope]
        self._heartbeats.due.set()

    def _answer_key_check(self, request: ControllerRequest) -> dict[str, Any]:
        """Tell what this controller knows of a key, and which key signs for it."""
        keys = self._codec.keys if isinstance(self._codec, SignedCodec) else None
        ring = keys.refresh() if isinstance(keys, KeyFile) else keys
        key = ring.keys.get(str(request.payload.get("kid"))) if ring is not None else None
        will = self._will_signer if self.mqtt is not None else None
        return {"status": key and key.status.value, "signs_with": self._signer(), "will_signed_with": will}

    # --- the policy that this controller publishes -----------------------------------------------------------------

    def _answer_policy_set(self, request: ControllerRequest) -> dict[str, Any]:
        rules, expires = request.payload.get("rules"), request.payload.get("expires")
        if not isinstance(rules, dict) or (expires is not None and type(expires) is not int):
            raise RequestRefused("malformed", "`rules` must be a JSON object, `expires` milliseconds since the epoch")
        assert self._issuer is not None
        policy, _ = self._issuer.publish(rules, expires)
        log.info("%s has set policy %s version %d", request.sender_id, policy.scope, policy.version)
        return {"scope": policy.scope, "version": policy.version}

    def _send_policy(self, policy: Policy) -> Promise:
        topic, qos = self.topics.policy(policy.scope), self.settings.policy_qos
        return self._publish("policy.update", topic, policy.to_payload(), region=policy.scope, retain=True, qos=qos)

    def _subscribe_own(self) -> None:
        """Subscribe to requests, and to the policy that this controller publishes, to see what others make of it."""
        super()._subscribe_own()
        if self.issues is None:
            return
        try:
            self._subscribe(self.topics.policy(self.issues), self.settings.policy_qos)
        except SubscriptionDenied as error:
            log.warning("%s; this controller cannot notice when its policy is replaced", error)

    def _has_connected(self) -> None:
        if self._issuer is not None:
            self._issuer.connected()

    def _after_heartbeat(self) -> None:
        """Publish the own policy again if that is due."""
        if self._issuer is None:
            return
        try:
            self._issuer.reassert(self._codec.signer_id(self.controller_id))
        except MqttkitError as error:
            log.warning("cannot publish the policy of %s again: %s", self._issuer.scope, error)

    def _policy_replaced(self, place: Place, envelope: Envelope | None, *, newer: bool) -> None:
        """Another policy message than the one in force arrived. Runs in the receiver's thread."""
        if self._issuer is None or place.region != self._issuer.scope:
            return
        by_rival = envelope is not None and envelope.sender_id != self.controller_id
        if by_rival:
            self._receiver.counters["rival_policies"] += 1
        self._issuer.replaced(envelope, by_rival=by_rival, newer=newer)
