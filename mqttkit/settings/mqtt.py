"""The settings of an MQTT client: the broker, the session, reconnecting, limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from mqttkit.addresses import parse_address
from mqttkit.settings.rules import (
    HEX,
    HOST,
    HOSTS,
    PAIRS,
    PROXY,
    WITHOUT_NUL,
    Checked,
    Count,
    Port,
    QoS,
    Seconds,
    between,
    one_of,
    starts_with,
)


@dataclass(frozen=True, kw_only=True)
class TlsSettings(Checked):
    """How the client verifies the broker, and proves its own identity."""

    ca_file: str | None = None
    """PEM file of the trusted authorities; the system's if it is not set."""
    cert_file: str | None = None
    """PEM file of the client's certificate chain."""
    key_file: str | None = None
    """PEM file of the client's private key."""
    key_password: str | None = field(default=None, repr=False)
    """Passphrase of the key file."""
    alpn: tuple[str, ...] = ()
    """Application protocols offered in the handshake (RFC 7301)."""
    insecure: bool = False
    """Accept any certificate and any host name. The client logs a warning for each connection."""
    psk: Annotated[str | None, HEX] = field(default=None, repr=False)
    """Pre-shared key in hexadecimal, in place of certificates (RFC 4279); needs Python 3.13."""
    psk_identity: Annotated[str, WITHOUT_NUL] = ""
    """Name under which the broker knows that key."""


@dataclass(frozen=True, kw_only=True)
class BrokerSettings(Checked):
    """Address of the broker, and the credentials for it."""

    host: Annotated[str, HOST] = "localhost"
    """Host name or address."""
    port: Port = 1883
    """TCP port, 1 to 65535."""
    hosts: Annotated[tuple[str, ...], HOSTS] = ()
    """`host` or `host:port` in order of preference, for fail-over; replaces `host` if it is not empty."""
    unix_socket: Annotated[str | None, WITHOUT_NUL] = None
    """Path of the broker's Unix socket; replaces host and port. With TLS the certificate must name `host`."""
    bind_address: Annotated[str | None, HOST] = None
    """Address of this machine from which to connect; the system chooses if it is not set."""
    proxy: Annotated[str | None, PROXY] = field(default=None, repr=False)
    """SOCKS 5 proxy to connect through, socks5h://[user[:password]@]host[:port]; it resolves the broker's name."""
    username: str | None = None
    """User name for CONNECT."""
    password: str | None = field(default=None, repr=False)
    """Password for CONNECT."""
    password_file: str | None = None
    """File whose first line is the password."""
    tls: TlsSettings | None = None
    """Use TLS if this section is set."""
    transport: Annotated[str, one_of("tcp", "websockets")] = "tcp"
    """`tcp` or `websockets`."""
    websocket_path: Annotated[str, starts_with("a path that begins with /", "/")] = "/mqtt"
    """Path of the WebSocket request."""

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Return each (host, port) in order of preference; a Unix socket is (path, 0)."""
        if self.unix_socket is not None:
            return ((self.unix_socket, 0),)
        if not self.hosts:
            return ((self.host, self.port),)
        return tuple(parse_address(entry, self.port) for entry in self.hosts)


@dataclass(frozen=True, kw_only=True)
class ClientSettings(Checked):
    """The MQTT session."""

    client_id: Annotated[str | None, WITHOUT_NUL] = None
    """Client identifier; the client generates one if it is not set."""
    keep_alive: Annotated[int, between(0, 65_535)] = 60
    """Seconds between pings on a silent connection, 0 to 65535; 0 disables them."""
    clean_session: bool = True
    """Start without the session that the broker may hold (MQTT 5: Clean Start)."""
    session_expiry: Annotated[int, between(0, 0xFFFF_FFFF)] = 0
    """Seconds that the broker keeps the session after the connection ends; MQTT 5 only."""
    qos: QoS = 0
    """Default quality of service."""
    version: Annotated[str, one_of("auto", "5", "311")] = "auto"
    """`5`, `311`, or `auto`: try 5 first, and 3.1.1 if the broker refuses 5."""
    receive_maximum: Annotated[int, between(1, 65_535)] = 1_000
    """QoS 1 and 2 messages that the broker may send before we acknowledge one; MQTT 5 only (3.1.2.11.3)."""
    connect_timeout: Seconds = 5.0
    """Seconds for the whole attempt: TCP, TLS and WebSocket handshake, and CONNACK."""


@dataclass(frozen=True, kw_only=True)
class ReconnectSettings(Checked):
    """How long to wait between attempts to connect."""

    initial_delay: Seconds = 1.0
    """Seconds before the first new attempt."""
    max_delay: Seconds = 60.0
    """Longest wait, seconds."""
    exponential_backoff: bool = True
    """Double the wait after each failure."""
    jitter: bool = True
    """Wait a random time between 0 and the delay, so that a fleet does not reconnect at the same moment."""


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Checked):
    """Bounds on the client's memory."""

    max_inflight: Annotated[int, between(1, 65_535)] = 100
    """QoS 1 and 2 publishes in flight at a time; the broker's Receive Maximum may lower it."""
    max_queued_messages: Count = 10_000
    """Publishes without an outcome yet; above this the client drops new ones, or the caller waits."""
    max_queued_bytes: Count = 64 * 1024 * 1024
    """Total size of those publishes, bytes."""
    max_unsent_bytes: Annotated[int | None, between(1, 0x7FFF_FFFF)] = None
    """Linux: bytes that may wait in the kernel to be sent. publish-scan sets 65536: they would grow old there."""
    max_packet_size: Annotated[int, between(1_024, 268_435_455)] = 64 * 1024 * 1024
    """Largest packet that the client accepts from the broker, bytes; a larger one ends the connection."""


@dataclass(frozen=True, kw_only=True)
class PropertySettings(Checked):
    """Further MQTT 5 properties of the packets that the client sends; omitted over MQTT 3.1.1."""

    connect: Annotated[tuple[str, ...], PAIRS] = ()
    """User properties of CONNECT, each `name=value`."""
    subscribe: Annotated[tuple[str, ...], PAIRS] = ()
    """User properties of SUBSCRIBE."""
    unsubscribe: Annotated[tuple[str, ...], PAIRS] = ()
    """User properties of UNSUBSCRIBE."""
    disconnect: Annotated[tuple[str, ...], PAIRS] = ()
    """User properties of DISCONNECT."""
    subscription_identifier: Annotated[int | None, between(1, 268_435_455)] = None
    """Identifier of the subscriptions, which the broker repeats with each message (3.8.2.1.2)."""
    disconnect_expiry: Annotated[int | None, between(0, 0xFFFF_FFFF)] = None
    """Seconds that the broker keeps the session after DISCONNECT, instead of `mqtt.client.session_expiry`."""
    request_problem_information: bool = True
    """Let the broker send reasons and user properties with any packet (3.1.2.11.7)."""
    request_response_information: bool = False
    """Ask the broker for a prefix of response topics (3.1.2.11.6)."""
    authentication_method: str | None = None
    """Method of enhanced authentication. Only one without challenges works: the client answers none (4.12)."""
    authentication_data: str | None = field(default=None, repr=False)
    """Data for that method."""


@dataclass(frozen=True, kw_only=True)
class MqttSettings(Checked):
    """Everything `MqttClient` needs."""

    broker: BrokerSettings = field(default_factory=BrokerSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    reconnect: ReconnectSettings = field(default_factory=ReconnectSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    properties: PropertySettings = field(default_factory=PropertySettings)
