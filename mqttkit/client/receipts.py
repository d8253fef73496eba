"""What became of each publish, and the bound on those not yet resolved."""

from __future__ import annotations

import threading
import time
from collections import Counter

from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings
from mqttkit.wire import Receipt


class PlainOutbox:
    """Receipts of publishes that plain paho has under way, bounded in number and bytes.

    paho may report a packet identifier before `publish` has returned it: such a report waits in `_early`. paho's
    own lock is held while it reports, so nothing here may call paho.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.condition = threading.Condition()
        self.counts: Counter[Outcome] = Counter()
        self.dropped: Counter[str] = Counter()
        self.unresolved = 0
        self._limits = limits
        self._bytes = 0
        self._sending: dict[int, Receipt] = {}
        self._waiting: dict[int, Receipt] = {}
        self._early: dict[int, tuple[int, str]] = {}
        self._entering: dict[Receipt, tuple[str, bool] | None] = {}
        """Receipts that paho is given the message of just now, and the loss that has overtaken them meanwhile."""

    def reserve(self, size: int, wait: float) -> Receipt:
        """Return a receipt for a message of `size` bytes; a dropped one where there is no room within `wait` s."""
        receipt = Receipt(self.condition, size)
        with self.condition:
            if not self._has_room(size) and not (wait > 0 and self._wait_for_room(size, wait)):
                self._drop(receipt, "queue full")
                return receipt
            self.unresolved += 1
            self._bytes += size
            self._entering[receipt] = None
        return receipt

    def drop(self, receipt: Receipt, reason: str) -> Receipt:
        """Resolve a receipt as dropped, for `reason`."""
        with self.condition:
            del self._entering[receipt]
            self._release(receipt)
            self._drop(receipt, reason)
            self.condition.notify_all()
        return receipt

    def refuse(self, reason: str) -> Receipt:
        """Return a receipt that is dropped from the start."""
        receipt = Receipt(self.condition)
        with self.condition:
            self._drop(receipt, reason)
        return receipt

    def register(self, mid: int, qos: int, receipt: Receipt) -> None:
        """File a receipt under the packet identifier that paho gave its message."""
        with self.condition:
            reason, keep_acknowledged = self._entering.pop(receipt) or ("", True)
            if reason and not (qos and keep_acknowledged):
                self._resolve(receipt, Outcome.LOST, 0, reason)
                self.condition.notify_all()
                return
            (self._waiting if qos else self._sending)[mid] = receipt
            early = self._early.pop(mid, None)
            if early is not None:
                self._settle(mid, *early)

    def settle(self, mid: int, code: int, reason: str) -> None:
        """Resolve the receipt of `mid`; a `code` of 128 or above is a denial (MQTT 5, 3.4.2.1)."""
        with self.condition:
            if mid in self._sending or mid in self._waiting:
                self._settle(mid, code, reason)
            else:
                self._early[mid] = (code, reason)

    def lose(self, reason: str, *, keep_acknowledged: bool) -> None:
        """Resolve as lost what will never be acknowledged: QoS 0 not yet written, and QoS 1 and 2 too unless kept."""
        with self.condition:
            lost = [*self._sending.values()]
            self._sending.clear()
            if not keep_acknowledged:
                lost += self._waiting.values()
                self._waiting.clear()
            self._early.clear()
            self._entering = dict.fromkeys(self._entering, (reason, keep_acknowledged))
            for receipt in lost:
                self._resolve(receipt, Outcome.LOST, 0, reason)
            self.condition.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is unresolved."""
        with self.condition:
            return self.condition.wait_for(lambda: self.unresolved == 0, timeout)

    def _has_room(self, size: int) -> bool:
        if self.unresolved == 0:
            return True
        return (
            self.unresolved < self._limits.max_queued_messages and self._bytes + size <= self._limits.max_queued_bytes
        )

    def _wait_for_room(self, size: int, wait: float) -> bool:
        deadline = time.monotonic() + wait
        while not self._has_room(size):
            left = deadline - time.monotonic()
            if left <= 0 or not self.condition.wait(left):
                return self._has_room(size)
        return True

    def _settle(self, mid: int, code: int, reason: str) -> None:
        receipt = self._sending.pop(mid, None)
        if receipt is not None:
            self._resolve(receipt, Outcome.SENT, 0, "")
        else:
            outcome = Outcome.DENIED if code >= 128 else Outcome.ACKNOWLEDGED
            self._resolve(self._waiting.pop(mid), outcome, code, reason)
        self.condition.notify_all()

    def _resolve(self, receipt: Receipt, outcome: Outcome, code: int, reason: str) -> None:
        receipt.outcome, receipt.code, receipt.reason = outcome, code, reason
        self.counts[outcome] += 1
        self._release(receipt)

    def _drop(self, receipt: Receipt, reason: str) -> None:
        receipt.outcome, receipt.reason = Outcome.DROPPED, reason
        self.counts[Outcome.DROPPED] += 1
        self.dropped[reason] += 1

    def _release(self, receipt: Receipt) -> None:
        self.unresolved -= 1
        self._bytes -= receipt.size
