"""How mqttkit connects and connects again: paho's client with addresses in turn, waits, probes and versions.

All of it runs in paho's network thread, but for `give_up` and `wake`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from mqttkit.addresses import show_address
from mqttkit.client import failures
from mqttkit.client.backoff import Backoff
from mqttkit.client.connection import BatchedClient
from mqttkit.client.failures import UNSUPPORTED_VERSION
from mqttkit.client.packets.send_limits import EXACT_WINDOW_V3
from mqttkit.errors import BrokerUnreachable, ConfigError, ConnectionRefused, MqttkitError
from mqttkit.settings import MqttSettings

log = logging.getLogger(__name__)

PROBE_INTERVAL = 5.0
"""Seconds between bare TCP probes while waiting for an unreachable broker."""
PROBE_TIMEOUT = 1.0
EARLY_ENDS_TOLERATED = 3
"""So many connections in a row that end before their CONNACK are tried again after PROBE_INTERVAL at most: a port that
Docker publishes accepts before the broker behind it listens."""
STOP_TIMEOUT = 2.0
SHORT_LIFE = 5.0
"""A connection that ends within so many seconds does not reset the wait."""
SHORT_LIVES_TOLERATED = 5
"""So many in a row, the broker reachable all the time, are two clients with one identifier: one has to stop."""
DENIED = 128
"""Reason codes from here on say no (MQTT 5, 2.4)."""
FOREVER = 0xFFFFFFFF
"""A session that never expires (MQTT 5, 3.1.2.11.2)."""

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class ConnectionState(enum.Enum):
    """Where a client stands with its broker."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """The broker was not reached; the reason says why and for how long."""
    REFUSED = "refused"
    """The broker refused us; tried again later unless retry is off."""
    CLOSED = "closed"


class Connector(BatchedClient):
    """paho's client with mqttkit's way of connecting; see `MqttClient` for what it is used by."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        manual_ack: bool,
        retry: bool,
        report: Callable[[ConnectionState, str], None],
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=V311 if settings.client.version == "311" else V5,
            transport="websockets" if settings.broker.transport == "websockets" else "tcp",
            manual_ack=manual_ack,
        )
        self.connect_timeout = settings.client.connect_timeout
        self.client_identifier = client_id
        self.failure: MqttkitError | None = None
        self.round_failures: list[MqttkitError] = []
        """Why each address failed in the last round, `failure` at the end."""
        self.rounds_failed = 0
        self.closing = threading.Event()
        self.finished = threading.Event()
        self.given_up = False
        self.looped_at = 0.0
        self._tls_stamp: tuple[int, ...] = ()
        self.address = settings.broker.addresses()[0]
        self._settings = settings
        self._report = report
        self._retry = retry
        self._addresses = settings.broker.addresses()
        self._index = 0
        self._failed_in_round = 0
        self._backoff = Backoff(settings.reconnect)
        self._step = "tcp"
        self._connack_deadline = 0.0
        self._connected_at = 0.0
        self._short_lives = 0
        self._early_ends = 0
        self._probing = False
        self._version_known = settings.client.version != "auto"
        self._at_once = False
        self._suspect = ("", 0.0)

    # --- paho's hooks -------------------------------------------------------------------------------------

    def reconnect(self) -> MQTTErrorCode:
        """Try the next address; a failure is kept, and raised as OSError, which paho's loop expects."""
        self.address = self._addresses[self._index]
        self._configure()
        self._report(ConnectionState.CONNECTING, show_address(*self.address))
        self._step = "tcp"
        try:
            result = super().reconnect()
        except Exception as error:
            self._failed(failures.unreachable(self.address, self._step, error))
            raise ConnectionError(str(error)) from error
        self._connack_deadline = time.monotonic() + self._settings.client.connect_timeout
        return result

    def loop_misc(self) -> MQTTErrorCode:
        """Do what paho does, and end a connection whose CONNACK does not come."""
        self.looped_at = time.monotonic()
        if self._connack_deadline and time.monotonic() > self._connack_deadline:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        return super().loop_misc()

    def _handle_connack(self) -> MQTTErrorCode:
        """Do what paho does, but never try MQTT 3.1: paho would connect from within this call, and may raise."""
        if self.protocol == V311 and self._in_packet["packet"][1:2] == b"\x01":
            self.refused(1, "unsupported protocol version")
            return MQTTErrorCode.MQTT_ERR_CONN_REFUSED
        return super()._handle_connack()

    def _handle_pubrec(self) -> MQTTErrorCode:
        """Do what paho does, but end a QoS 2 publish that is denied: paho goes on as if it were not (MQTT 5, 4.3.3)."""
        packet = self._in_packet["packet"]
        if self.protocol != V5 or len(packet) < 3 or packet[2] < DENIED:
            return super()._handle_pubrec()
        mid = int.from_bytes(packet[:2], "big")
        with self._out_message_mutex:
            if mid not in self._out_messages:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            return self._do_on_publish(
                mid, ReasonCode(PacketTypes.PUBREC, identifier=packet[2]), PahoProperties(PacketTypes.PUBREC)
            )

    def _thread_main(self) -> None:
        try:
            super()._thread_main()
        except Exception as error:
            log.exception("the network thread died")
            self.given_up = True
            self.failure = BrokerUnreachable(show_address(*self.address), "mqtt", f"the network thread died: {error!r}")
        finally:
            self.finished.set()
            self._report(ConnectionState.CLOSED, str(self.failure) if self.given_up else "")

    def _create_socket_connection(self) -> socket.socket:
        if self._get_proxy() is None:
            connection = _connect(self.address, self.connect_timeout)
        else:
            connection = super()._create_socket_connection()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._step = "tls" if self._settings.broker.tls else self._after_tls()
        return connection

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> Any:
        """Shake hands, and close the socket where that fails: paho leaves it to the garbage collector."""
        self._reload_certificates()
        assert self._ssl_context is not None
        wrapped = self._ssl_context.wrap_socket(
            tcp_sock, server_hostname=self.address[0], do_handshake_on_connect=False
        )
        wrapped.settimeout(self.connect_timeout)
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        self._step = self._after_tls()
        return wrapped

    def _reload_certificates(self) -> None:
        """Read the TLS files again where one of them has changed; a set that cannot be used changes nothing."""
        from mqttkit.client.tls import files_stamp, make_context

        tls = self._settings.broker.tls
        if tls is None or (stamp := files_stamp(tls)) == self._tls_stamp:
            return
        first, self._tls_stamp = not self._tls_stamp, stamp
        if first:
            return
        try:
            self._ssl_context = make_context(tls)
        except ConfigError as error:
            log.error("the certificates read before stay in use: %s", error)  # noqa: TRY400  # says it all
        else:
            log.info("read the changed certificates again")

    def _reconnect_wait(self) -> None:
        """Wait before the next round of addresses; not at all within a round."""
        if self._at_once:
            self._at_once = False
            return
        if 0 < self._failed_in_round < len(self._addresses):
            return
        self._failed_in_round = 0
        self.rounds_failed += 1
        if not self._retry or self.given_up:
            self.give_up()
            return
        delay = self._backoff.next()
        if 0 < self._early_ends <= EARLY_ENDS_TOLERATED:
            delay = min(delay, PROBE_INTERVAL)
        refused = isinstance(self.failure, ConnectionRefused)
        state = ConnectionState.REFUSED if refused else ConnectionState.WAITING
        self._report(state, f"{self.failure}; trying again in {delay:.1f} s")
        self._wait(delay)

    # --- what MqttClient calls ----------------------------------------------------------------------------

    def accepted(self, server: PahoProperties | None) -> None:
        """Take note of a CONNACK that accepts, and of what it allows (MQTT 5, 3.2.2.3)."""
        self._connack_deadline = 0.0
        self._connected_at = time.monotonic()
        self._failed_in_round = 0
        self._version_known = True
        self._early_ends = 0
        self.failure = None
        allowed = getattr(server, "ReceiveMaximum", 65_535) if self.protocol == V5 else EXACT_WINDOW_V3
        self._max_inflight_messages = min(self._settings.limits.max_inflight, allowed)

    def refused(self, code: int, reason: str) -> None:
        """Take note of a CONNACK that refuses; fall back to MQTT 3.1.1 where the version is what it refuses."""
        self._connack_deadline = 0.0
        error = failures.refused(self.address, code, reason)
        if error.code == UNSUPPORTED_VERSION and not self._version_known and self.protocol == V5:
            self._fall_back()
            return
        self._failed(error)

    def ended(self, code: int, reason: str) -> None:
        """Take note of the end of a connection, before its CONNACK or after."""
        if self._connack_deadline:
            self._connack_deadline = 0.0
            self._ended_early()
        elif self._connected_at:
            lived = time.monotonic() - self._connected_at
            self._connected_at = 0.0
            self._lost(code, reason, lived)

    def suspect(self, topic: str) -> None:
        """Take note that `topic` goes out, which has a character for which a broker may hang up. Any thread."""
        self._suspect = (topic, time.monotonic())

    def cut(self) -> None:
        """Shut the socket, which ends the connection; the network thread notices and connects again."""
        connection = self._sock
        if connection is not None:
            # A socket under TLS or WebSockets has no shutdown that leaves its wrapper alone: a twin has.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    def give_up(self) -> None:
        """End the network thread after this."""
        self.given_up = True
        self._thread_terminate = True

    def stop(self) -> None:
        """Send DISCONNECT and wait for the network thread to end, at most STOP_TIMEOUT: it may wait in connect()."""
        self.disconnect()
        self._thread_terminate = True
        if not self.finished.wait(STOP_TIMEOUT) and self._sock is not None:
            log.debug("the broker does not take the DISCONNECT: closing the connection")
            self._sock_close()
            self.finished.wait(STOP_TIMEOUT)
        if self.finished.is_set():
            self.loop_stop()
            self._sock_close()
            self._reset_sockets(sockpair_only=True)

    # --- inside -------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        client = self._settings.client
        if self.protocol == V5:
            properties = PahoProperties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = client.receive_maximum
            expiry = client.session_expiry or (0 if client.clean_session else FOREVER)
            if expiry:
                properties.SessionExpiryInterval = expiry
            start: dict[str, Any] = {"clean_start": client.clean_session, "properties": properties}
        else:
            self._clean_session = client.clean_session
            start = {}
        self.connect_async(*self.address, client.keep_alive, **start)

    def _after_tls(self) -> str:
        return "websocket" if self._settings.broker.transport == "websockets" else "mqtt"

    def _failed(self, error: MqttkitError) -> None:
        self.failure = error
        self.round_failures = [*(self.round_failures if self._failed_in_round else ()), error]
        self._failed_in_round += 1
        self._index = (self._index + 1) % len(self._addresses)
        self._probing = isinstance(error, BrokerUnreachable) and error.step in ("dns", "tcp")
        if self._probing:
            self._short_lives = self._early_ends = 0
        log.debug("%s", error)

    def _ended_early(self) -> None:
        if not self._version_known and self.protocol == V5:
            self._fall_back()
            return
        if not self._version_known:
            self._protocol = V5
        self._early_ends += 1
        cause = "it closed the connection, or did not answer, before the CONNACK"
        tls = self._settings.broker.tls is not None
        texts = (self.client_identifier, self._settings.broker.username or "", (self._will_topic or b"").decode())
        self._failed(failures.closed_early(self.address, cause, tls=tls, texts=texts))

    def _fall_back(self) -> None:
        """Try MQTT 3.1.1 on the same address at once."""
        log.debug("%s did not take MQTT 5; trying 3.1.1", show_address(*self.address))
        self._protocol = V311
        self._at_once = True

    def _lost(self, code: int, reason: str, lived: float) -> None:
        taken_over = code == failures.SESSION_TAKEN_OVER
        if lived >= SHORT_LIFE and not taken_over:
            self._backoff.reset()
            self._short_lives = 0
        else:
            self._short_lives += 1
        self._probing = self._short_lives < 2
        self.given_up = self._short_lives >= SHORT_LIVES_TOLERATED
        topic, when = self._suspect
        hint = failures.shunned_hint(topic) if min(lived, time.monotonic() - when) < SHORT_LIFE else ""
        if taken_over or (self.given_up and not hint):
            self.failure = failures.taken_over(self.address, self.client_identifier, certain=taken_over)
        else:
            self.failure = failures.lost(self.address, reason, hint=hint)

    def _wait(self, delay: float) -> None:
        """Wait `delay` seconds, less where closing, or where an unreachable broker accepts a bare TCP probe."""
        deadline = time.monotonic() + delay
        while (left := deadline - time.monotonic()) > 0:
            self.looped_at = time.monotonic()
            if self.closing.wait(min(left, PROBE_INTERVAL)):
                return
            if left > PROBE_INTERVAL and self._probing and self._probe():
                return

    def _probe(self) -> bool:
        """Tell whether one of the addresses accepts a TCP connection; that address is tried first then."""
        for index, address in enumerate(self._addresses):
            try:
                _connect(address, PROBE_TIMEOUT).close()
            except (OSError, ValueError) as error:
                log.debug("probe of %s: %s", show_address(*address), error)
            else:
                self._index = index
                return True
        return False


def _connect(address: tuple[str, int], timeout: float) -> socket.socket:
    """Connect to the first of the host's addresses that accepts, each for at most `timeout` seconds.

    An ASCII host goes to the resolver as bytes: for text Python loads the tables of internationalised names, 0.7 MB.
    """
    host, port = address
    resolvable: Any = host.encode() if host.isascii() else host
    return socket.create_connection((resolvable, port), timeout)
