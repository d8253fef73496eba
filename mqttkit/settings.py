"""Settings as frozen values: what YAML, environment and flags come down to. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

CLIENT_VERSIONS = ("auto", "5", "311")
TRANSPORTS = ("tcp", "websockets")


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """How the client proves the broker, and itself."""

    ca_file: str | None = None
    """PEM file of the authorities trusted; the system's where it is not given."""
    cert_file: str | None = None
    """PEM file of the client's certificate chain."""
    key_file: str | None = None
    """PEM file of the client's private key."""
    key_password: str | None = field(default=None, repr=False)
    """Passphrase of the key file."""
    alpn: tuple[str, ...] = ()
    """Application protocols offered in the handshake (RFC 7301)."""
    insecure: bool = False
    """Accept any certificate and any host name. Warned of at each connection."""


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """Where the broker is and who we are to it."""

    host: str = "localhost"
    """Host name or address."""
    port: int = 1883
    """TCP port, 1 to 65535."""
    hosts: tuple[str, ...] = ()
    """`host` or `host:port` in order of preference, for fail-over; replaces `host` where it is not empty."""
    username: str | None = None
    """User name for CONNECT."""
    password: str | None = field(default=None, repr=False)
    """Password for CONNECT."""
    password_file: str | None = None
    """File whose first line is the password."""
    tls: TlsSettings | None = None
    """TLS is used where this is set."""
    transport: str = "tcp"
    """`tcp` or `websockets`."""
    websocket_path: str = "/mqtt"
    """Path of the WebSocket request."""

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Return each (host, port) in order of preference."""
        if not self.hosts:
            return ((self.host, self.port),)
        return tuple(parse_address(entry, self.port) for entry in self.hosts)


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """The MQTT session."""

    client_id: str | None = None
    """Client identifier; one is made up where it is not given."""
    keep_alive: int = 60
    """Seconds between pings on a silent connection, 0 to 65535; 0 switches them off."""
    clean_session: bool = True
    """Start without the session that the broker may hold (MQTT 5: Clean Start)."""
    session_expiry: int = 0
    """Seconds that the broker keeps the session after the connection ends; MQTT 5 only."""
    qos: int = 0
    """Quality of service where a command does not say."""
    version: str = "auto"
    """`5`, `311`, or `auto`: 5 first and 3.1.1 where the broker refuses it."""
    receive_maximum: int = 1_000
    """QoS 1 and 2 messages the broker may have under way to us; MQTT 5 only (3.1.2.11.3)."""
    connect_timeout: float = 5.0
    """Seconds for TCP, TLS and WebSocket handshake, and again for the CONNACK."""


@dataclass(frozen=True, kw_only=True)
class ReconnectSettings:
    """How long to wait between tries."""

    initial_delay: float = 1.0
    """Seconds before the first new try."""
    max_delay: float = 60.0
    """Seconds that a wait grows to at most."""
    exponential_backoff: bool = True
    """Double the wait after each failure."""
    jitter: bool = True
    """Wait a random time between 0 and the delay, so that a fleet does not return at one moment."""


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Bounds on what the client holds."""

    max_inflight: int = 100
    """QoS 1 and 2 publishes under way at a time; the broker's Receive Maximum may lower it."""
    max_queued_messages: int = 10_000
    """Publishes handed over and not yet resolved; beyond it they are dropped, or the caller waits."""
    max_queued_bytes: int = 64 * 1024 * 1024
    """Bytes of those publishes."""


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """Everything `MqttClient` needs."""

    broker: BrokerSettings = BrokerSettings()
    client: ClientSettings = ClientSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    limits: LimitSettings = LimitSettings()


@dataclass(frozen=True, kw_only=True)
class ScannerSettings:
    """Where advertisements come from and which pass."""

    id: str = "scanner-01"
    """Scanner identifier: one topic level, at most 64 characters."""
    source: str = "auto"
    """`auto`, `bleak`, `bluepy`, `simulated` or `replay:FILE`."""
    adapter: str | None = None
    """Bluetooth adapter such as hci0; the first one where it is not given."""
    active: bool = False
    """Ask devices for their scan response (Bluetooth Core 5.4, Vol 6, Part B, 4.4.3)."""
    speed: float | None = 1.0
    """Replay: times the recorded pace; null (`max`) is as fast as it goes."""
    loop: bool = False
    """Replay: begin again at the end."""
    devices: int = 10
    """Simulated: number of devices."""
    rate: float = 20.0
    """Simulated: advertisements a second."""
    seed: int = 0
    """Simulated: seed of the random numbers."""
    min_rssi: int | None = None
    """Pass only advertisements at least this strong, dBm."""
    mac: tuple[str, ...] = ()
    """Pass only these addresses or address prefixes."""
    company: tuple[str, ...] = ()
    """Pass only manufacturer data of these companies: two hex bytes in air order (4c00 is Apple)."""
    service: tuple[str, ...] = ()
    """Pass only these service UUIDs, 16 or 128 bits."""
    name: tuple[str, ...] = ()
    """Pass only local names that match these glob patterns."""
    interval: float = 0.0
    """Seconds within which a device is passed at most once unless its data changed; 0 passes all."""

    @property
    def unpaced(self) -> bool:
        """True for a replay as fast as it goes: it waits for its reader, where a radio would lose."""
        return self.source.startswith("replay:") and self.speed is None


@dataclass(frozen=True, kw_only=True)
class PublisherSettings:
    """How advertisements become messages."""

    topic: str = "ble/raw/{scanner_id}/{mac_address}"
    """Topic template; {scanner_id} and {mac_address} are filled in."""
    qos: int | None = None
    """Quality of service; mqtt.client.qos where it is not given."""
    stats_interval: float = 60.0
    """Seconds between lines of statistics."""
    status_topic: str | None = None
    """Retained `online` or `offline` goes here where it is set."""
    queue_size: int = 10_000
    """Advertisements that may wait between scanner and client; the oldest is dropped beyond it."""


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """What resident memory the bridge may have."""

    warn: int = 200_000_000
    """Bytes from which on it warns."""
    max: int | None = None
    """Bytes from which on it drains and ends with exit code 75, to be started again; null never does."""


@dataclass(frozen=True, kw_only=True)
class BridgeSettings:
    """From metrics/# into a sink."""

    topic: str = "metrics/{tenant_id}/{agent_id}/{metric_name}"
    """Topic template; each placeholder is a level of its own."""
    sink: str | None = field(default=None, repr=False)
    """sqlite:PATH, redis://…, postgresql://…, http(s)://… or jsonl:PATH."""
    tenants: str | None = field(default=None, repr=False)
    """Known tenants: a YAML file, sqlite:PATH, or redis://…#SET."""
    group: str | None = None
    """Share the load with other bridges of this name ($share/NAME/…; MQTT 5, 4.8.2)."""
    batch_size: int = 500
    """Messages in one commit at most; half the Receive Maximum where that is less."""
    batch_window: float = 0.05
    """Seconds that a message may wait for company under load; without load it does not wait."""
    queue_size: int = 10_000
    """Messages taken and not yet in a batch."""
    payload_limit: int = 65_536
    """Bytes; a longer payload is a dead letter."""
    stream: str = "mqttkit:metrics"
    """Redis: name of the stream."""
    list: str | None = None
    """Redis: push jobs onto this list instead."""
    job: str = "StoreMetric"
    """Redis list: name of the job."""
    live: bool = True
    """Redis: publish what is stored on the channel metrics:{tenant_id}."""
    dedupe_window: int = 86_400
    """Seconds that redis, http and jsonl remember a dedupe_id."""
    dead_letter_limit: int = 1_000_000
    """Dead letters from which on nothing is acknowledged; the last batch may go beyond."""
    dead_letters: str | None = None
    """SQLite file with the dead letters of the http and jsonl sinks."""
    sink_timeout: float = 5.0
    """Seconds for one answer of the sink's server."""
    token_file: str | None = None
    """HTTP sink: file whose first line is the bearer token."""
    health_host: str = "127.0.0.1"
    """Address that /livez, /readyz and /metrics are served on."""
    health_port: int | None = None
    """Their TCP port; none are served where it is not given."""
    drain_timeout: float = 5.0
    """Seconds to commit what was taken, at SIGTERM."""
    stats_interval: float = 60.0
    """Seconds between log lines with the books."""
    check_interval: float = 60.0
    """Seconds between checks that the subscription is still granted."""
    skew_limit: float = 300.0
    """Seconds between a metric's time stamp and its receipt from which on the clocks are reported."""
    memory: MemorySettings = MemorySettings()


@dataclass(frozen=True, kw_only=True)
class ControllerSettings:
    """A network controller: who it is, how its messages travel, what it believes."""

    id: str | None = None
    """Controller identifier, one topic level: sender_id, and the MQTT client identifier."""
    region: str = "zone-A"
    """Region that it belongs to, one topic level."""
    base: str = "pdsno"
    """First level or levels of all its topics."""
    transports: tuple[str, ...] = ("mqtt", "http", "memory")
    """Ways for messages to travel, the best one first; one without an address is passed over."""
    http_url: str | None = None
    """Where another controller serves HTTP, such as http://10.0.0.2:8088."""
    http_listen: str | None = None
    """`host:port` on which this controller serves HTTP for others; port 0 takes a free one."""
    poll_interval: float = 1.0
    """Seconds between questions to `http_url`."""
    key_file: str | None = None
    """Key ring; $XDG_STATE_HOME/mqttkit/controllers/keys.json where it is not given."""
    unsigned: bool = False
    """Neither sign nor verify: only where the broker's access rules are all that is needed."""
    state_file: str | None = None
    """SQLite file of what must survive a restart; beside the key ring, by id, where it is not given."""
    heartbeat_interval: float = 10.0
    """Seconds between heartbeats."""
    clock_skew: float = 300.0
    """Seconds that a sender's clock may differ, either way."""
    max_message_bytes: int = 256 * 1024
    """Largest message looked at, bytes."""
    keep_session: bool = True
    """Let the broker keep the session for a day while the controller is away, so that no report is lost."""
    handler_retries: int = 2
    """How often a handler that failed is called again before the message is dead-lettered."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One mqttkit.yaml."""

    mqtt: MqttSettings = MqttSettings()
    scanner: ScannerSettings = ScannerSettings()
    publisher: PublisherSettings = PublisherSettings()
    controller: ControllerSettings = ControllerSettings()
    bridge: BridgeSettings = BridgeSettings()


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """Split `host`, `host:port`, `[v6]:port` or a bare IPv6 address into (host, port); raise ValueError."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest else ""
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError(f"no host in {text!r}")
    number = int(port) if port.isdigit() else default_port
    if (port and not port.isdigit()) or not 1 <= number <= 65_535:
        raise ValueError(f"port must be 1 to 65535, got {port!r} in {text!r}")
    return host, number


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
