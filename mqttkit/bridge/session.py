"""The bridge's session at the broker: what it belongs to, whether the broker still has it, and how to end it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqttkit.bridge.identity import Identity, kept_session, stored_identities
from mqttkit.bridge.sparkplug.state_file import state_path
from mqttkit.client import MqttClient
from mqttkit.client.control import set_credentials
from mqttkit.client.failures import SESSION_TAKEN_OVER
from mqttkit.config import read_secret
from mqttkit.errors import ConnectionRefused, MqttkitError
from mqttkit.settings import BrokerSettings, MqttSettings

logger = logging.getLogger(__name__)

SESSION_SECONDS = 7 * 86_400
"""How long the broker keeps the session, by default."""
RECONNECT_SECONDS = 2.0
"""Longest wait between attempts to connect: devices reconnect soon, and their messages need the bridge."""
TAKEOVERS, TAKEOVER_SECONDS = 3, 60.0
"""So many within so long end the bridge: a single one may be `bridge leave` or a repaired connection."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_LOOPBACK_HOST = re.compile(r"(?<=[/@,])(?:127\.0\.0\.1|\[::1\]|localhost)(?=[:/,?#]|$)", re.IGNORECASE)
_DEFAULT_PORTS = {
    **{"redis": 6379, "rediss": 6379, "http": 80, "https": 443, "postgresql": 5432, "postgres": 5432},
    **{
        "influx": 8086,
        "influxs": 8086,
        "victoria": 8428,
        "victorias": 8428,
        "nats": 4222,
        "natss": 4222,
        "kafka": 9092,
    },
}


def session_purpose(broker: BrokerSettings, topic_filter: str, sink: str, target: str) -> tuple[str, str, str, str]:
    """Return what a session belongs to, the same for every spelling of one broker and one sink.

    `sink` is the sink's name, `target` what it adds to that.
    """
    addresses = [("localhost" if host.lower() in LOOPBACK else host.lower(), port) for host, port in broker.addresses()]
    return repr(addresses), topic_filter, normal_sink(sink), target


def normal_sink(name: str) -> str:
    """Return a sink's name with an absolute path, or with one spelling of loopback and without the default port."""
    scheme, _, rest = name.partition(":")
    if scheme in ("sqlite", "jsonl"):
        return f"{scheme}:{os.path.abspath(Path(rest).expanduser())}"  # noqa: PTH100 - resolve() would follow links
    port = _DEFAULT_PORTS.get(scheme)
    name = _LOOPBACK_HOST.sub("localhost", name)
    return re.sub(rf":{port}(?=[/?#]|$)", "", name) if port else name


class SessionWatch:
    """Log and count sessions that the broker lost, and interruptions that may be a restart of the broker."""

    def __init__(self, client_id: str, *, expected: bool, remember: Callable[[], None]) -> None:
        """`expected` is True if an earlier run had the session; `remember` records that this one has it."""
        self.lost = 0
        """Connections whose session the broker no longer had."""
        self.interruptions = 0
        """Connections that ended while the bridge ran."""
        self._client_id = client_id
        self._expected = expected
        self._remember = remember
        self._connected = False

    def connected(self, *, present: bool) -> None:
        """Handle an accepted connection."""
        if present and self.interruptions:
            logger.warning(
                "resumed session %s after an interruption; a broker that was killed has lost the messages "
                "that it had not saved",
                self._client_id,
            )
        elif present:
            logger.info("resumed session %s", self._client_id)
        elif not present and self._expected:
            self.lost += 1
            logger.warning(
                "the broker lost session %s: messages that it had queued for the bridge may be lost. "
                "Check its persistence, the session expiry (-x) and other clients with this identifier",
                self._client_id,
            )
        elif not present:
            logger.info("created session %s", self._client_id)
        if not self._expected:
            self._remember()
        self._expected = self._connected = True

    def disconnected(self) -> None:
        """Handle a change to another state than connected."""
        self.interruptions += self._connected
        self._connected = False


class TakeoverWatch:
    """Notices another client with our identifier: both would take the session from each other forever."""

    def __init__(self) -> None:
        self._last: MqttkitError | None = None
        self._times: list[float] = []

    def too_many(self, failure: MqttkitError | None) -> bool:
        """Return True if `failure` of the client is one takeover too many."""
        if failure is self._last or not isinstance(failure, ConnectionRefused) or failure.code != SESSION_TAKEN_OVER:
            return False
        self._last = failure
        now = time.monotonic()
        self._times = [*(at for at in self._times if now - at < TAKEOVER_SECONDS), now]
        return len(self._times) >= TAKEOVERS


class BridgeSession:
    """The session of one bridge: its client identifier, locked while the bridge runs, and its settings."""

    def __init__(self, mqtt: MqttSettings, *, topic_filter: str, sink: str, target: str, output: str = "") -> None:
        """See `Sink` for its name and target; `output` is its name among several. Raise BridgeError."""
        self._stack = contextlib.ExitStack()
        self._identity: Identity | None = None
        client_id, expected, remember = mqtt.client.client_id, False, _remember_nothing
        if client_id is None:
            alone = session_purpose(mqtt.broker, topic_filter, sink, target)
            purpose = (*alone[:3], f"{target}#{output}") if output else alone
            earlier = (repr(mqtt.broker.addresses()), topic_filter, sink)
            identity = self._identity = self._stack.enter_context(Identity(*purpose, earlier=earlier))
            client_id, expected, remember = identity.client_id, identity.had_session, identity.remember_session
            if output:
                _warn_of_session(kept_session(*alone), sink)
        self.client_id = client_id
        self.state_path = state_path(client_id, repr(mqtt.broker.addresses()))
        """File for what the parser remembers of this session's messages."""
        self.watch = SessionWatch(client_id, expected=expected, remember=remember)
        self.settings = _with_session(mqtt, client_id)
        self.password = PasswordWatch(mqtt.broker)

    def __enter__(self) -> BridgeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check_leaving(self, *, present: bool) -> None:
        """Log a warning if there is nothing to leave: the options are probably not those of the bridge."""
        if not present:
            logger.warning(
                "the broker had no session %s, so there is nothing to store. Give the options of the bridge's `run`, "
                "or its identifier with -i. List them: mqttkit bridge sessions list",
                self.client_id,
            )

    def end(self) -> None:
        """Remove the session from the broker, which has no more messages in it."""
        try:
            end_session(self.settings)
        except MqttkitError as error:
            logger.warning("cannot remove the session %s from the broker: %s", self.client_id, error)
            return
        self.state_path.unlink(missing_ok=True)
        if self._identity is not None:
            self._identity.forget_session()
        else:
            forget_stored(self.client_id)
        logger.info("left: the broker has no session %s any more", self.client_id)


def _with_session(mqtt: MqttSettings, client_id: str) -> MqttSettings:
    """Return settings with a persistent session and a short wait before the bridge connects again."""
    client = dataclasses.replace(
        mqtt.client,
        client_id=client_id,
        clean_session=False,
        session_expiry=mqtt.client.session_expiry or SESSION_SECONDS,
    )
    delay = min(mqtt.reconnect.max_delay, RECONNECT_SECONDS)
    return dataclasses.replace(mqtt, client=client, reconnect=dataclasses.replace(mqtt.reconnect, max_delay=delay))


def _warn_of_session(client_id: str, sink: str) -> None:
    """Warn of the session that the sink had as a bridge's only one: each output has a new session."""
    if client_id:
        logger.warning(
            "the broker also keeps session %s, of a bridge whose only sink was %s, and queues messages for it. "
            "Store them with: mqttkit bridge leave --sink …; or delete them: mqttkit bridge sessions remove %s",
            client_id,
            sink,
            client_id,
        )


def _remember_nothing() -> None:
    """Do nothing: the user chose the client identifier, so no file is kept."""


class PasswordWatch:
    """The file with the broker's password: read again when it has changed."""

    def __init__(self, broker: BrokerSettings) -> None:
        self._broker = broker
        self._stamp = self._modified()

    def refresh(self, client: MqttClient) -> None:
        """Give the client the new password. Called in the network thread before it connects."""
        stamp = self._modified()
        if self._broker.password_file is None or stamp == self._stamp:
            return
        try:
            password = read_secret(self._broker.password_file, "", "password_file")
        except MqttkitError as error:
            logger.warning("the previous password stays in use: %s", error)
            return
        self._stamp = stamp
        set_credentials(client, self._broker.username or "", password)
        logger.info("read the changed password in %s", self._broker.password_file)

    def _modified(self) -> tuple[int, int]:
        try:
            status = Path(self._broker.password_file or "").stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)


def for_another_client(mqtt: MqttSettings, **client: Any) -> MqttSettings:
    """Return settings for another client of the bridge; it reads the password from its file again."""
    broker = mqtt.broker
    if broker.password_file is not None:
        broker = dataclasses.replace(broker, password=None)
    return dataclasses.replace(mqtt, broker=broker, client=dataclasses.replace(mqtt.client, **client))


def end_session(mqtt: MqttSettings, *, timeout: float = 5.0) -> None:
    """Remove the client's session and its queued messages from the broker; raise MqttkitError."""
    with MqttClient(for_another_client(mqtt, clean_session=True, session_expiry=0), retry=False) as last:
        last.connect(timeout=timeout)


def remove_session(mqtt: MqttSettings, client_id: str) -> None:
    """Remove a session that no bridge uses, with its queued messages; raise MqttkitError."""
    end_session(dataclasses.replace(mqtt, client=dataclasses.replace(mqtt.client, client_id=client_id)))
    forget_stored(client_id)


def forget_stored(client_id: str) -> None:
    """Record that the broker has no session under an identifier of this machine, if it is one."""
    for stored in stored_identities():
        if stored.client_id == client_id:
            stored.forget_session()
