"""The status of a broker: whether it answers, its listeners, its load, and what its backend lacks."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import Any

from mqttkit.broker.bridges.trial import bridge_states
from mqttkit.broker.lifecycle import open_broker
from mqttkit.broker.probe import CLOSED, ask, operator_login
from mqttkit.broker.profile import BrokerPaths, Profile, load_spec, read_profile
from mqttkit.broker.protocol import LACKS, Broker, Feature
from mqttkit.broker.statistics import StatisticsWatcher
from mqttkit.errors import BrokerUnreachable, LifecycleError, MissingPart, MqttkitError

STARTING_SECONDS = 10.0
HALTED = {
    "paused": "its container is paused: docker unpause, or mqttkit broker down",
    "crash-looping": "its container ends again and again: mqttkit broker logs",
    "hung": "a signal has stopped its process: kill -CONT, or mqttkit broker down",
}


@dataclass(frozen=True, kw_only=True)
class BrokerStatus:
    """The status of one broker."""

    name: str
    """Name of the broker."""
    state: str
    """`up`, `starting`, `full` (closes new connections), `hung` (does not answer), `paused`, `crash-looping`, `down`,
    `absent` (never created), `engine-away` (Docker does not answer), or `unreadable` (its files are damaged)."""
    backend: str | None = None
    """Backend that runs it."""
    version: str | None = None
    """Version of the broker program."""
    identity: str | None = None
    """`pid 123` or a container's id."""
    health: str | None = None
    """Result of the container's health check: `starting`, `healthy` or `unhealthy`."""
    host: str | None = None
    """Address of the listeners."""
    port: int | None = None
    """TCP port of MQTT."""
    plain: bool = True
    """Whether that port speaks MQTT without TLS."""
    v5_port: int | None = None
    """TCP port of MQTT 5 if that has a separate port."""
    websocket_port: int | None = None
    """TCP port of WebSockets."""
    other_host: str | None = None
    """Address of the WebSocket and TLS listeners if it is not `host`."""
    websocket_tls: bool = False
    """Whether WebSockets use TLS."""
    tls_port: int | None = None
    """TCP port of TLS."""
    username: str | None = None
    """User of the operator."""
    uptime: float | None = None
    """Seconds since it started."""
    memory_bytes: int | None = None
    """Resident memory."""
    cpu_seconds: float | None = None
    """Processor time used since it started."""
    cpu_percent: float | None = None
    """Share of one processor, averaged since it started."""
    connections: int | None = None
    """Clients with a connection."""
    received_per_second: float | None = None
    """PUBLISH packets received per second, averaged over a minute."""
    sent_per_second: float | None = None
    """PUBLISH packets sent per second, averaged over a minute."""
    bridges: tuple[dict[str, object], ...] = ()
    """Name, address (`to`) and state (`connected`) of each connection to another broker."""
    last_save: float | None = None
    """When the database was saved, seconds since the epoch."""
    trouble: str | None = None
    """Why it is not `up`."""
    lacks: tuple[str, ...] = field(default_factory=tuple)
    """What this backend lacks."""


def broker_status(name: str = "default") -> BrokerStatus:
    """Return the status of the broker with this name; raise UsageError only for an invalid name."""
    paths = BrokerPaths.of(name)
    try:
        spec, profile = load_spec(paths), read_profile(paths)
    except LifecycleError as error:
        return BrokerStatus(name=name, state="unreadable", trouble=_with_hint(error))
    if spec is None:
        return BrokerStatus(name=name, state="absent", trouble="no broker has this name")
    broker = open_broker(spec, paths)
    try:
        return status_of(broker, profile)
    except MissingPart as error:
        return BrokerStatus(name=name, state="engine-away", backend=broker.backend, trouble=_with_hint(error))
    except MqttkitError as error:
        return BrokerStatus(name=name, state="hung", backend=broker.backend, trouble=_with_hint(error))


def status_of(broker: Broker, profile: Profile | None) -> BrokerStatus:
    """Return the status of a broker that `up` created; ask again if it stopped or restarted meanwhile."""
    try:
        return _examine(broker, profile)
    except LifecycleError:
        return _examine(broker, profile)


def _examine(broker: Broker, profile: Profile | None) -> BrokerStatus:
    running = broker.running()
    lacks = tuple(LACKS[broker.backend].values())
    status = functools.partial(BrokerStatus, name=broker.spec.name, backend=broker.backend, lacks=lacks)
    if running is None or profile is None:
        return status(state="down", trouble="it is not running")
    if running.halted:
        return status(
            state=running.halted,
            identity=running.identity,
            health=running.health,
            trouble=HALTED[running.halted],
        )
    uptime = max(0.0, time.time() - running.started)  # the clock may have been set back
    state, trouble = _answer(profile, uptime)
    return status(
        state=state,
        version=".".join(map(str, broker.version())),
        identity=running.identity,
        health=running.health,
        host=profile.host,
        port=profile.port,
        plain=profile.plain,
        v5_port=profile.v5_port,
        websocket_port=profile.websocket_port,
        other_host=profile.other_host,
        websocket_tls=profile.websocket_tls,
        tls_port=profile.tls_port,
        username=profile.username,
        uptime=round(uptime, 1),
        trouble=trouble or None,
        **(_details(broker, profile, uptime) if state == "up" else {}),
    )


def _details(broker: Broker, profile: Profile, uptime: float) -> dict[str, Any]:
    """Return what only a broker that works can tell."""
    return {"last_save": broker.last_save(), **_usage(broker, uptime), **_traffic(broker, profile)}


def _usage(broker: Broker, uptime: float) -> dict[str, Any]:
    """Return memory and processor."""
    used = broker.resources()
    if used is None:
        return {}
    return {
        "memory_bytes": used.memory_bytes,
        "cpu_seconds": round(used.cpu_seconds, 2),
        "cpu_percent": round(100 * used.cpu_seconds / max(uptime, 0.1), 1),
    }


def _traffic(broker: Broker, profile: Profile) -> dict[str, Any]:
    """Return connections and rates; nothing if the broker does not publish them, or not yet."""
    if Feature.STATISTICS in LACKS[broker.backend]:
        return {}
    with StatisticsWatcher(profile) as watcher:
        now, bridges = watcher.now(), tuple(bridge_states(broker, watcher))
    if now is None:
        return {"bridges": bridges}
    return {
        "bridges": bridges,
        "connections": max(0, now.clients_connected),
        "received_per_second": now.received_per_second,
        "sent_per_second": now.sent_per_second,
    }


def _answer(profile: Profile, uptime: float) -> tuple[str, str]:
    """Return the state of a running broker, and why it does not accept its operator, or an empty string."""
    try:
        answer = ask(operator_login(profile))
    except BrokerUnreachable as error:
        if error.step == "mqtt" and error.cause == CLOSED:
            return "full", "it closes new connections: probably all max_connections are taken"
        return "starting" if uptime < STARTING_SECONDS else "hung", error.cause
    return ("up", "") if answer.accepted else ("hung", f"it refuses its own operator: {answer.reason}")


def _with_hint(error: MqttkitError) -> str:
    return f"{error.message}. {error.hint}" if error.hint else error.message
