"""The network thread: opens connections, runs their loop, and does what the reconnect policy decides.

The thread is paho's: `loop_start` starts it. Nothing that a peer sends may end it: an unexpected exception ends the
connection, is logged once with its cause, and the policy decides what follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from paho.mqtt.client import ConnectFlags
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from mqttkit.addresses import show_address
from mqttkit.client import failures, reconnect
from mqttkit.client.connection import Connection
from mqttkit.client.receiving.unexpected import UnexpectedPacket
from mqttkit.client.reconnect import MQTT_5, PROBE_INTERVAL, SHORT_LIFE, Connect, Decision, Event, ReconnectPolicy
from mqttkit.client.state import ConnectionState
from mqttkit.client.transport import sockets
from mqttkit.errors import BrokerUnreachable
from mqttkit.settings import ClientSettings

log = logging.getLogger(__name__)

PROBE_TIMEOUT = 1.0
STOP_TIMEOUT = 2.0
LOOP_SECONDS = 1.0
"""The longest wait of one turn of the loop: the keep alive is checked that often."""


class Hooks(NamedTuple):
    """Who gets the news. Called in the network thread; a hook must not raise."""

    state: Callable[[ConnectionState, str], None]
    """A state and its reason."""
    accepted: Callable[[bool], None]
    """The broker accepted the connection; the argument says whether it kept the session. Before any message."""
    refused: Callable[[], None]
    """The broker refused the connection."""
    ended: Callable[[], None]
    """The connection ended, accepted or not."""
    due: Callable[[float], None]
    """Called after each turn of the loop of an accepted connection, with the monotonic time."""


class NetworkThread:
    """One thread for the life of a client. Only this thread calls the policy and opens connections."""

    def __init__(
        self, connection: Connection, policy: ReconnectPolicy, *, settings: ClientSettings, hooks: Hooks
    ) -> None:
        self.closing = threading.Event()
        """Set when the user closes the client."""
        self.ran_at = 0.0
        """When the loop last ran, on the monotonic clock; 0 before it starts."""
        self._connection = connection
        self._policy = policy
        self._settings = settings
        self._hooks = hooks
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._accepted_at: float | None = None
        self._refusal: reconnect.Refused | None = None
        self._end = (0, "")
        self._topic = ("", 0.0)
        self._last_crash = ""
        connection.run = self._run
        connection.on_connect = self._handle_connect
        connection.on_refused = self._handle_refused
        connection.on_disconnect = self._handle_disconnect

    # Other threads call these.

    def start(self) -> None:
        """Start the thread."""
        self._connection.loop_start()

    def stop(self) -> None:
        """Send DISCONNECT and wait for the thread to end, at most twice STOP_TIMEOUT: it may be connecting."""
        self.closing.set()
        self._connection.say_goodbye()
        self._connection.opener.cancel()
        if threading.current_thread() is self._thread:
            return
        if not self._finished.wait(STOP_TIMEOUT):
            log.debug("the broker does not take the DISCONNECT: dropping the connection")
            self._connection.opener.cancel()
            self._connection.drop()
            self._finished.wait(STOP_TIMEOUT)
        if self._finished.is_set():
            self._connection.release()

    def remember_topic(self, topic: str) -> None:
        """Remember that `topic`, with a character over which a broker may close the connection, is being sent."""
        self._topic = (topic, time.monotonic())

    # The thread itself.

    def _run(self) -> None:
        self._thread = threading.current_thread()
        try:
            decision = self._policy.decide(reconnect.Started())
            while isinstance(decision, Connect) and not self.closing.is_set():
                decision = self._wait(decision)
                if not self.closing.is_set():
                    decision = self._connect(decision)
        except Exception as error:
            log.exception("the network thread failed")
            where = show_address(*self._policy.address)
            self._policy.crashed(BrokerUnreachable(where, "mqtt", f"the network thread failed: {error!r}"))
        finally:
            self._finished.set()
            reason = str(self._policy.failure) if self._policy.given_up else ""
            self._hooks.state(ConnectionState.CLOSED, reason)

    def _wait(self, decision: Connect) -> Connect:
        """Wait as long as decided, unless an address answers a probe; return where to connect then."""
        if decision.delay <= 0:
            return decision
        state = ConnectionState.REFUSED if self._policy.refused else ConnectionState.WAITING
        self._hooks.state(state, f"{self._policy.failure}; trying again in {decision.delay:.1f} s")
        deadline = time.monotonic() + decision.delay
        while (left := deadline - time.monotonic()) > 0:
            self.ran_at = time.monotonic()
            if self.closing.wait(min(left, PROBE_INTERVAL)):
                break
            if left > PROBE_INTERVAL and decision.probe and (found := self._probe()) is not None:
                again = self._policy.decide(reconnect.ProbeAnswered(found))
                return again if isinstance(again, Connect) else decision
        return decision

    def _probe(self) -> reconnect.Address | None:
        """Return the first address that accepts a TCP connection; through a proxy none, it accepts in any case."""
        for address in self._policy.addresses if self._connection.opener.proxy is None else ():
            try:
                sockets.probe(address, PROBE_TIMEOUT, source=self._connection.opener.source)
            except (OSError, ValueError) as error:
                log.debug("probe of %s: %s", show_address(*address), error)
            else:
                return address
        return None

    def _connect(self, decision: Connect) -> Decision:
        """Open one connection and run it to its end."""
        address = decision.address
        self._accepted_at, self._refusal, self._end = None, None, (0, "")
        self._hooks.state(ConnectionState.CONNECTING, show_address(*address))
        try:
            self._connection.identify(self._policy.client_id)
            self._connection.open(address, v5=decision.version == MQTT_5, settings=self._settings)
        except Exception as error:  # noqa: BLE001  # the resolver, OpenSSL and paho raise many kinds
            failure = failures.unreachable(address, self._connection.opener.step, error)
            log.debug("%s", failure)
            self._connection.abort()
            return self._policy.decide(reconnect.Failed(failure))
        if self.closing.is_set():
            self._connection.abort()
            return self._policy.decide(reconnect.Closed())
        return self._policy.decide(self._run_connection())

    def _run_connection(self) -> Event:
        """Run the loop until the connection ends; return how it ended."""
        deadline = self._connection.opener.deadline
        silent, crash, answered = False, "", ""
        try:
            while self._connection.turn(self._timeout(deadline)):
                self.ran_at = time.monotonic()
                if self._accepted_at is not None:
                    self._hooks.due(self.ran_at)
                elif self.ran_at > deadline:
                    silent = True
                    self._connection.abort()
                    break
        except UnexpectedPacket as error:
            self._connection.abort()
            if self._accepted_at is None:
                answered = str(error)
            else:
                crash = self._end_crashed(error)
        except Exception as error:  # noqa: BLE001  # logged there
            crash = self._end_crashed(error)
        self._hooks.ended()
        if self.closing.is_set():
            return reconnect.Closed()
        if self._refusal is not None:
            return self._refusal
        if self._accepted_at is None:
            return self._failed_mqtt(crash) if crash else reconnect.NoConnack(silent, answered)
        return self._ended(time.monotonic() - self._accepted_at, crash)

    def _timeout(self, deadline: float) -> float:
        if self._accepted_at is not None:
            return LOOP_SECONDS
        return min(LOOP_SECONDS, max(0.0, deadline - time.monotonic()) + 0.001)

    def _end_crashed(self, error: Exception) -> str:
        """End the connection over an unexpected packet; log it once, with the trace if we did not foresee it."""
        foreseen = isinstance(error, UnexpectedPacket)
        crash = str(error) if foreseen else repr(error)
        if crash != self._last_crash:
            trace = None if foreseen else error
            log.error("an unexpected packet ended the connection: %s", crash, exc_info=trace)
        self._last_crash = crash
        self._connection.abort()
        return crash

    def _failed_mqtt(self, crash: str) -> reconnect.Failed:
        where = show_address(*self._policy.address)
        return reconnect.Failed(BrokerUnreachable(where, "mqtt", f"unexpected packet: {crash}"))

    def _ended(self, seconds: float, crash: str) -> reconnect.Ended:
        code, reason = self._end
        topic, sent_at = self._topic
        recent = min(seconds, time.monotonic() - sent_at) < SHORT_LIFE
        if crash:
            return reconnect.Ended(seconds, 0, f"unexpected packet: {crash}", by_us=True)
        return reconnect.Ended(seconds, code, reason, topic if recent else "")

    # paho's callbacks, in the network thread, under paho's lock.

    def _handle_connect(
        self, _client: object, _data: object, flags: ConnectFlags, code: ReasonCode, _properties: PahoProperties | None
    ) -> None:
        if code.is_failure:
            self._handle_refused(code.value, str(code))
            return
        self._accepted_at = time.monotonic()
        self._policy.decide(reconnect.Accepted())
        self._hooks.accepted(flags.session_present)

    def _handle_refused(self, code: int, reason: str = "") -> None:
        self._refusal = reconnect.Refused(code, reason or f"reason code 0x{code:02x}")
        self._hooks.refused()

    def _handle_disconnect(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, _properties: PahoProperties | None
    ) -> None:
        self._end = (code.value, str(code))
