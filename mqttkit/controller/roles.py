"""The three roles of controllers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mqttkit.controller.controller import Controller
from mqttkit.controller.discovery.inventory import DeviceInventory
from mqttkit.controller.discovery.simulated_subnet import discover
from mqttkit.controller.discovery.types import Discover, Found, to_report
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.controller.handover.receipts import parse_receipt
from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import GLOBAL, Place
from mqttkit.controller.policies import Policy
from mqttkit.controller.store import StoredDevice
from mqttkit.controller.transports.types import Promise, Transport
from mqttkit.errors import PublishFailed, SubscriptionDenied

log = logging.getLogger(__name__)

MIN_SCAN_SECONDS, MAX_SCAN_SECONDS = 0.01, 86_400.0
"""Limits of `scan_interval` in a policy."""


@dataclass(frozen=True)
class Report:
    """A discovery report, as a regional controller receives it."""

    controller_id: str
    """The local controller that sent it; its signature is verified."""
    sequence: int
    message_id: str
    payload: Mapping[str, Any]
    """`subnet`, `scans` and `devices`: a list of objects."""
    redelivered: bool = False
    """The transport delivered it again: it may have been handled just before a crash."""


def check_report(payload: Mapping[str, Any]) -> None:
    """Raise MessageRefused (malformed) if a report has no list of devices. Senders and receivers apply this rule."""
    if not isinstance(payload.get("devices"), list):
        raise MessageRefused(MessageRefusal.MALFORMED, "the report has no list of devices")


ReportHandler = Callable[[Report], None]


class LocalController(Controller):
    """Finds the devices of one network, reports them, follows policies."""

    role: ClassVar[str] = "local"

    def __init__(self, *arguments: Any, discover: Discover | None = None, **options: Any) -> None:
        """`discover` scans once and returns the devices; without it, scans are simulated."""
        self._discover = discover
        self.failed_scans = 0
        """Number of scans that raised an error."""
        super().__init__(*arguments, **options)
        self._inventory = DeviceInventory(self._store)

    def report_devices(self, found: Found) -> tuple[dict[str, Any], Promise]:
        """Report what a scan has found, with the devices that are new, changed and gone since the last report.

        Returns the report and its promise. A report whose promise has failed already, because receivers would refuse
        it, does not count as the last one. Raises DiscoveryFailed if `found` is not devices, and
        MessageRefused and StoreFailed.
        """
        report = to_report(found)
        changes = self._inventory.compare(self.controller_id, report["devices"])
        report["changes"] = changes.to_payload()
        promise = self.publish_discovery_report(report)
        if promise.done and not promise.ok:
            return report, promise
        self._inventory.save(self.controller_id, report["devices"], changes, seen=int(self._codec.time() * 1_000))
        self._store.save()
        return report, promise

    def scan_interval(self, otherwise: float) -> float:
        """Return the seconds between scans: those of the region's policy, else of the global one, else `otherwise`."""
        for scope in (self.settings.region, GLOBAL):
            policy = self.policy(scope)
            if policy is not None and "scan_interval" in policy.rules and self._can_apply(policy):
                return float(policy.rules["scan_interval"])
        return otherwise

    def _can_apply(self, policy: Policy) -> bool:
        """Return whether the rules that this controller applies automatically have values that work."""
        interval = policy.rules.get("scan_interval", MIN_SCAN_SECONDS)
        return type(interval) in (int, float) and MIN_SCAN_SECONDS <= interval <= MAX_SCAN_SECONDS

    def _handle_policy(self, policy: Policy) -> None:
        if not self._can_apply(policy):
            text = "policy %s version %d is not applied: scan_interval must be %g to %g seconds, got %.80r"
            interval = policy.rules["scan_interval"]
            log.error(text, policy.scope, policy.version, MIN_SCAN_SECONDS, MAX_SCAN_SECONDS, interval)
        super()._handle_policy(policy)

    def publish_discovery_report(self, report: Mapping[str, Any]) -> Promise:
        """Publish a report at QoS 1; its promise is `ok` when the regional controller's receipt has arrived.

        Until then the report is sent again, and the outbox keeps it over a restart. `taken_by` of the promise names
        the transport that has taken it meanwhile. Raises MessageRefused if receivers would refuse it, and StoreFailed.
        """
        check_report(report)
        topic = self.topics.discovery(self.settings.region, self.controller_id)
        return self._publish("discovery.report", topic, report, needs_receipt=True)

    def run_discovery_cycle(
        self, *, subnet: str = "192.168.1.0/24", seed: int = 0, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Scan, publish the report, wait for its receipt; raise PublishFailed, or what the scan raises.

        Without a discovery function the scan is simulated (ARP, ICMP, SNMP), and `subnet` and `seed` count.
        """
        found = self._discover() if self._discover is not None else discover(subnet, seed=seed)
        report, promise = self.report_devices(found)
        promise.wait(timeout)
        if not promise.ok:
            raise PublishFailed(self._why_not(promise, timeout))
        return report

    def _why_not(self, promise: Promise, timeout: float) -> str:
        if promise.reason:
            return f"the report of {self.controller_id} was not delivered: {promise.reason}"
        if promise.taken_by:
            text = f"{promise.taken_by} took the report of {self.controller_id}, but no receipt came in {timeout:g} s"
            return "; ".join(filter(None, (text, self.unknown_subscribers, self.clock_error)))
        if self.clock_error:
            return f"the report of {self.controller_id} waits: {self.clock_error}"
        return f"no transport accepted the report of {self.controller_id} within {timeout:g} s"

    @property
    def unknown_subscribers(self) -> str:
        """What MQTT 3.1.1 does not say about a report that the broker has taken; empty on MQTT 5."""
        if self.mqtt is None or self.mqtt.shows_subscribers or self._sender.current != self.mqtt.name:
            return ""
        return "on MQTT 3.1.1 the broker does not say whether any client subscribes"

    @property
    def clock_error(self) -> str:
        """How this machine's clock differs from the regional controller's; empty if that is allowed."""
        return self._sender.clock.text

    def status(self) -> dict[str, Any]:
        """Return the content of the heartbeat, with a mark if the broker does not show subscribers."""
        known = {"subscribers_unknown": True} if self.unknown_subscribers else {}
        return super().status() | known | {"failed_scans": self.failed_scans}

    def _open_outbox(self) -> ReportOutbox | None:
        path = self._store.path
        return ReportOutbox(path.with_name(f"{path.name}.outbox")) if path is not None else None

    def _brings_receipts(self, transport: Transport) -> bool:
        """Return False until the broker has taken the subscription: a receipt that comes before it is lost."""
        return self.mqtt is None or transport is not self.mqtt or not self.mqtt.is_pending(self._receipts_topic)

    @property
    def _receipts_topic(self) -> str:
        return self.topics.receipts(self.settings.region, self.controller_id)

    def _subscribe_own(self) -> None:
        super()._subscribe_own()
        try:
            self._subscribe(self._receipts_topic)
        except SubscriptionDenied as error:
            log.error("%s; without receipts, reports are sent again and again", error)  # noqa: TRY400

    def _handle_receipt(self, place: Place, envelope: Envelope) -> None:
        if place.controller_id == self.controller_id:
            self._sender.receive(envelope.sender_id, parse_receipt(envelope.payload), envelope.timestamp / 1000)


class RegionalController(Controller):
    """Receives the reports of its region's local controllers, publishes the region's policies."""

    role: ClassVar[str] = "regional"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.reports: dict[str, Report] = {}
        """The newest report of each local controller."""
        self.report_count = 0
        self._condition = threading.Condition()
        self._report_handler: ReportHandler | None = None
        super().__init__(*arguments, **options)
        self._inventory = DeviceInventory(self._store)

    def devices(self) -> list[StoredDevice]:
        """Return the inventory of the region: the devices that its local controllers have found, also those gone."""
        return self._store.devices()

    def subscribe_to_discovery_reports(
        self, handler: ReportHandler | None = None, *, flush: Callable[[], bool] = lambda: True
    ) -> None:
        """Receive every report of the region once; raise SubscriptionDenied.

        The controller calls `flush` after each batch of reports and acknowledges the batch when `flush` returns True.
        """
        self._report_handler = handler
        self._receiver.before_commit = flush
        self._subscribe(self.topics.discovery_filter(self.settings.region))

    def publish_policy_update(self, rules: Mapping[str, Any], *, expires: int | None = None) -> tuple[Policy, Promise]:
        """Publish the region's next policy, retained; `expires` is in milliseconds since the epoch."""
        assert self._issuer is not None
        return self._issuer.publish(rules, expires)

    def update_mqtt_client_id(self, controller_id: str) -> None:
        """Continue under another identifier without missing a message; raise BrokerUnreachable, SubscriptionDenied."""
        self.topics.status(controller_id)
        former_topic = self.topics.status(self.controller_id)
        farewell = self._codec.wrap(self._heartbeat("offline"), former_topic)
        former, self.controller_id = self.controller_id, controller_id
        if self.mqtt is not None and self._started:
            try:
                self.mqtt.change_client_id(controller_id)
            except Exception:
                self.controller_id = former
                raise
            self.mqtt.send(former_topic, farewell, qos=1, retain=True)
            self._subscribe_own()
            self._heartbeats.due.set()

    def wait_for_report(self, controller_id: str, *, sequence: int = 0, timeout: float = 10.0) -> Report | None:
        """Wait up to `timeout` seconds for a report with that sequence number or a later one; None if none arrives."""
        deadline = time.monotonic() + timeout

        def found() -> bool:
            report = self.reports.get(controller_id)
            return report is not None and report.sequence >= sequence

        with self._condition:
            self._condition.wait_for(found, max(0.0, deadline - time.monotonic()))
            return self.reports[controller_id] if found() else None

    @property
    def issues(self) -> str | None:
        """The region: a regional controller publishes its policy."""
        return self.settings.region

    def status(self) -> dict[str, Any]:
        """Return the content of the heartbeat, with the number of reports."""
        return super().status() | {"reports": self.report_count, "locals": len(self.reports)}

    def _handle_report(self, place: Place, envelope: Envelope) -> None:
        if place.region != self.settings.region:  # a restored session may have subscriptions to another region
            raise MessageRefused(MessageRefusal.WRONG_REGION, f"a report of region {place.region!r}")
        redelivered = self._receiver.redelivered
        report = Report(envelope.sender_id, envelope.sequence, envelope.message_id, envelope.payload, redelivered)
        check_report(envelope.payload)
        self._keep_devices(envelope)
        if self._report_handler is not None:
            self._report_handler(report)
        with self._condition:
            known = self.reports.get(report.controller_id)
            if known is None or known.sequence < report.sequence:
                self.reports[report.controller_id] = report
            self.report_count += 1
            self._condition.notify_all()

    def _keep_devices(self, envelope: Envelope) -> None:
        """Bring the inventory up to date; the batch's commit makes it last. An older report changes nothing."""
        owner, devices = envelope.sender_id, envelope.payload["devices"]
        if self._inventory.is_newest(owner, envelope.timestamp):
            changes = self._inventory.compare(owner, devices)
            self._inventory.save(owner, devices, changes, seen=envelope.timestamp)


class GlobalController(Controller):
    """Publishes the global policy, receives the system's events."""

    role: ClassVar[str] = "global"

    @property
    def issues(self) -> str | None:
        """`global`: it publishes the global policy."""
        return GLOBAL

    def publish_policy_update(self, rules: Mapping[str, Any], *, expires: int | None = None) -> tuple[Policy, Promise]:
        """Publish the next global policy, retained; `expires` is in milliseconds since the epoch."""
        assert self._issuer is not None
        return self._issuer.publish(rules, expires)
