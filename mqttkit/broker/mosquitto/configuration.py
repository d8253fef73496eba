"""Write settings as mosquitto.conf, and the first ACL file. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mqttkit.broker.profile import BrokerSpec
from mqttkit.errors import UsageError

OPERATOR = "mqttkit"
"""User that `up` creates for the operator; it may use every topic."""
PROBE = "mqttkit-probe"
"""User of health checks and canaries; it may use only `mqttkit/probe/#`."""
CANARY = "mqttkit-canary"
"""User without rights that a reload adds for a moment, to see that the broker read the files and denies it."""
PROBE_FILTER = "mqttkit/probe/#"
LOG_TYPES = ("error", "warning", "notice", "information")
"""What every broker logs."""
PLUGIN_VERSION = (2, 1)
"""First mosquitto that has plugins for password file and ACL file; it deprecates the options of these names."""
PLUGIN_FILES = ("mosquitto_password_file.so", "mosquitto_acl_file.so")
HEAD = "# Written by `mqttkit broker up`; your changes here are lost at the next start.\n"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The limits of a broker."""

    max_connections: int = 10_000
    """Concurrent clients on each listener; each needs a file descriptor."""
    max_queued_messages: int = 100_000
    """QoS 1 and 2 messages queued for a client that is away or slow; at least 1."""
    max_queued_bytes: int = 64 * 1024 * 1024
    """Bytes of those messages; the lower limit applies."""
    max_inflight_messages: int = 100
    """QoS 1 and 2 messages in flight to a client, 1 to 65535."""
    max_packet_size: int = 10 * 1024 * 1024
    """Bytes of the largest packet received or sent, 20 to 268435455."""
    autosave_interval: int = 300
    """Seconds between saves of the database."""
    persistent_client_expiration: int = 365
    """Days after which the session of a client that is away ends; mosquitto itself keeps it forever."""
    persistence: bool = True
    """Whether retained messages and sessions survive a restart."""


TUNINGS: dict[str, Tuning] = {
    "small": Tuning(
        max_connections=100,
        max_queued_messages=1_000,
        max_queued_bytes=4 * 1024 * 1024,
        max_inflight_messages=20,
        max_packet_size=1024 * 1024,
    ),
    "default": Tuning(),
    "high-traffic": Tuning(
        max_connections=50_000,
        max_queued_messages=1_000_000,
        max_queued_bytes=512 * 1024 * 1024,
        max_inflight_messages=1_000,
        max_packet_size=64 * 1024 * 1024,
    ),
}

LIMITS: dict[str, tuple[int, int]] = {
    "max_connections": (1, 1_000_000),
    "max_queued_messages": (1, 100_000_000),
    "max_queued_bytes": (1_024, 1 << 40),
    "max_inflight_messages": (1, 65_535),
    "max_packet_size": (20, 268_435_455),
    "autosave_interval": (1, 86_400),
    "persistent_client_expiration": (1, 3_650),
}
"""Least and greatest value. 0 is excluded: it means `no limit` to some versions and `drop all` to others."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One address on which the broker listens."""

    port: int
    """TCP port."""
    bind: str
    """Numeric address that the broker binds; mosquitto ignores a WebSocket listener on a host name."""
    websockets: bool = False
    """Whether it speaks WebSockets."""
    tls: bool = False
    """Whether it speaks TLS, with config/certs/server.crt."""
    client_certificates: bool = False
    """Whether it requires a client certificate signed by config/certs/ca.crt."""
    certificate_users: bool = False
    """Whether the common name of that certificate is the user, without a password."""


def tuning(profile: str, overrides: Mapping[str, int | bool]) -> Tuning:
    """Return the settings of a tuning profile with `overrides` applied; raise `UsageError`."""
    if profile not in TUNINGS:
        raise UsageError(f"unknown tuning profile {profile!r}", hint=f"Choose one of: {', '.join(TUNINGS)}")
    for name, value in overrides.items():
        if name == "persistence":
            continue
        if name not in LIMITS:
            raise UsageError(
                f"unknown tuning setting {name!r}", hint=f"Choose one of: persistence, {', '.join(LIMITS)}"
            )
        least, greatest = LIMITS[name]
        if not least <= value <= greatest:
            raise UsageError(f"{name} must be {least} to {greatest}, got {value}")
    return dataclasses.replace(TUNINGS[profile], **overrides)  # type: ignore[arg-type]  # checked above


def mosquitto_conf(
    listeners: Iterable[Listener],
    settings: Tuning,
    *,
    version: tuple[int, ...],
    anonymous: bool = False,
    root: str = "",
    log_types: Iterable[str] = (),
    revocations: bool = True,
    plugins: str | None = None,
) -> str:
    """Return mosquitto.conf for the broker's version.

    `plugins` is the directory of mosquitto's own plugins; without it, the broker gets options that 2.1 deprecates.
    `root` is the prefix of each path: empty if the broker's working directory is its root, `/mosquitto/` in the image.
    `revocations` says whether there is a revocation list: certificates from elsewhere may come without one.
    """
    lines = [
        *_security(anonymous, root, plugins if version >= PLUGIN_VERSION else None),
        *_persistence(settings, root),
        *_limits(settings, version),
        "log_dest stderr",
        *(f"log_type {kind}" for kind in (*LOG_TYPES, *log_types)),
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        "connection_messages true",
        "sys_interval 2",
    ]
    for listener in listeners:
        lines += ["", *_listener(listener, settings, root, revocations=revocations)]
    return HEAD + "\n".join(lines) + "\n"


def build_listeners(
    spec: BrokerSpec, *, plain: str | None, bind: str, port: int, websocket_port: int | None, tls_port: int | None
) -> list[Listener]:
    """Return the listeners that the spec asks for, on these ports; None or 0 omits a listener.

    `plain` is the address of MQTT without TLS, None without that listener; `bind` is the address of the others.
    """
    listeners = [] if plain is None else [Listener(port=port, bind=plain)]
    if websocket_port:
        listeners.append(
            Listener(
                port=websocket_port,
                bind=bind,
                websockets=True,
                tls=spec.websocket_tls,
                client_certificates=spec.websocket_tls and spec.client_certificates,
                certificate_users=spec.websocket_tls and spec.certificate_users,
            )
        )
    if tls_port:
        listeners.append(
            Listener(
                port=tls_port,
                bind=bind,
                tls=True,
                client_certificates=spec.client_certificates,
                certificate_users=spec.certificate_users,
            )
        )
    return listeners


def first_acl(*, anonymous: bool) -> str:
    """Return the ACL file of a new broker: the operator may use every topic, the probe its own topics.

    Lines before the first `user` line apply only to clients without a user name.
    """
    return (
        "# Change it with: mqttkit broker acl grant | revoke\n"
        + ("topic readwrite #\n" if anonymous else "")
        + f"\nuser {OPERATOR}\ntopic readwrite #\ntopic read $SYS/#\n"
        + f"\nuser {PROBE}\ntopic readwrite {PROBE_FILTER}\n"
    )


def _security(anonymous: bool, root: str, plugins: str | None) -> list[str]:
    lines = [f"allow_anonymous {_boolean(anonymous)}"]
    for name, place in (("password_file", "config/passwd"), ("acl_file", "config/acl")):
        if plugins is None:
            lines.append(f"{name} {root}{place}")
        else:
            lines += [f"global_plugin {plugins}/mosquitto_{name}.so", f"plugin_opt_{name} {root}{place}"]
    return lines


def _persistence(settings: Tuning, root: str) -> list[str]:
    if not settings.persistence:
        return ["persistence false"]
    return [
        "persistence true",
        f"persistence_location {root}data",
        f"autosave_interval {settings.autosave_interval}",
    ]


def _limits(settings: Tuning, version: tuple[int, ...]) -> list[str]:
    lines = [
        f"max_queued_messages {settings.max_queued_messages}",
        f"max_inflight_messages {settings.max_inflight_messages}",
        f"max_queued_bytes {settings.max_queued_bytes}",
        f"persistent_client_expiration {settings.persistent_client_expiration}d",
    ]
    if version >= (1, 6):
        lines += [f"max_packet_size {settings.max_packet_size}"]
    if version >= (1, 5):
        lines += ["set_tcp_nodelay true"]
    return lines


def _listener(listener: Listener, settings: Tuning, root: str, *, revocations: bool) -> list[str]:
    lines = [f"listener {listener.port} {listener.bind}", f"max_connections {settings.max_connections}"]
    if listener.websockets:
        # Without its domain mosquitto 2.0 binds a WebSocket listener to every address of the machine.
        domain = "ipv6" if ":" in listener.bind else "ipv4"
        lines += ["protocol websockets", f"socket_domain {domain}"]
    if listener.tls:
        certificates = f"{root}config/certs"
        lines += [
            f"cafile {certificates}/ca.crt",
            f"certfile {certificates}/server.crt",
            f"keyfile {certificates}/server.key",
            "tls_version tlsv1.2",
            f"require_certificate {_boolean(listener.client_certificates)}",
        ]
        if listener.client_certificates and revocations:
            lines.append(f"crlfile {certificates}/revoked.crl")
        if listener.certificate_users:
            lines.append("use_identity_as_username true")
    return lines


def _boolean(value: bool) -> str:
    return "true" if value else "false"
