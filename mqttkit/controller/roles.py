"""The three roles of controllers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mqttkit.controller.controller import Controller
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.controller.handover.receipts import parse_receipt
from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import GLOBAL, Place
from mqttkit.controller.policies import Policy
from mqttkit.controller.simulation.subnet_scan import discover
from mqttkit.controller.transports.types import Promise
from mqttkit.errors import PublishFailed, SubscriptionDenied

log = logging.getLogger(__name__)


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
    """Finds the devices of one subnet, reports them, follows policies."""

    role: ClassVar[str] = "local"

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
        """Scan (simulated: ARP, ICMP, SNMP), publish the report, wait for its receipt; raise PublishFailed."""
        report = discover(subnet, seed=seed)
        promise = self.publish_discovery_report(report)
        promise.wait(timeout)
        if not promise.ok:
            raise PublishFailed(self._why_not(promise, timeout))
        return report

    def _why_not(self, promise: Promise, timeout: float) -> str:
        if promise.reason:
            return f"the report of {self.controller_id} was not delivered: {promise.reason}"
        if promise.taken_by:
            return f"{promise.taken_by} took the report of {self.controller_id}, but no receipt came in {timeout:.0f} s"
        return f"no transport accepted the report of {self.controller_id} within {timeout:.0f} s"

    def _open_outbox(self) -> ReportOutbox | None:
        path = self._store.path
        return ReportOutbox(path.with_name(f"{path.name}.outbox")) if path is not None else None

    def _subscribe_own(self) -> None:
        super()._subscribe_own()
        try:
            self._subscribe(self.topics.receipts(self.settings.region, self.controller_id))
        except SubscriptionDenied as error:
            log.error("%s; without receipts, reports are sent again and again", error)  # noqa: TRY400

    def _handle_receipt(self, place: Place, envelope: Envelope) -> None:
        if place.controller_id == self.controller_id:
            self._sender.receive(envelope.sender_id, parse_receipt(envelope.payload))


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
            self._heartbeat_due.set()

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
        if self._report_handler is not None:
            self._report_handler(report)
        with self._condition:
            known = self.reports.get(report.controller_id)
            if known is None or known.sequence < report.sequence:
                self.reports[report.controller_id] = report
            self.report_count += 1
            self._condition.notify_all()


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
