"""What can be said of a broker from outside: is it up, since when, where, what does it use, what does it lack."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mqttkit.broker import LACKS, Broker, BrokerPaths, open_broker
from mqttkit.broker.local import login_of
from mqttkit.broker.profile import Profile, load_spec, read_profile
from mqttkit.broker.readiness import ask
from mqttkit.errors import BrokerUnreachable


@dataclass(frozen=True, kw_only=True)
class BrokerStatus:
    """One broker, now."""

    name: str
    """Name of the broker."""
    state: str
    """`up`, `starting` (runs, no CONNACK), `down`, or `absent` (never set up)."""
    backend: str | None = None
    """Backend that runs it."""
    version: str | None = None
    """Version of the broker program."""
    identity: str | None = None
    """`pid 123` or a container's id."""
    host: str | None = None
    """Address of the listeners."""
    port: int | None = None
    """TCP port of MQTT."""
    v5_port: int | None = None
    """TCP port of MQTT 5 where it has its own."""
    websocket_port: int | None = None
    """TCP port of WebSockets."""
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
    trouble: str | None = None
    """Why it is not `up`."""
    lacks: tuple[str, ...] = field(default_factory=tuple)
    """What this backend cannot give."""


def broker_status(name: str = "default") -> BrokerStatus:
    """Return the status of the broker of this name; a broker that is not there is a status, no error."""
    paths = BrokerPaths.of(name)
    spec = load_spec(paths)
    if spec is None:
        return BrokerStatus(name=name, state="absent", trouble="no broker of this name was set up")
    return status_of(open_broker(spec, paths), read_profile(paths))


def status_of(broker: Broker, profile: Profile | None) -> BrokerStatus:
    """Return the status of a broker that was set up."""
    running = broker.running()
    if running is None or profile is None:
        return BrokerStatus(
            name=broker.spec.name,
            state="down",
            backend=broker.backend,
            trouble="it does not run",
            lacks=tuple(LACKS[broker.backend].values()),
        )
    trouble = _trouble(profile)
    used = broker.resources()
    return BrokerStatus(
        name=broker.spec.name,
        state="starting" if trouble else "up",
        backend=broker.backend,
        version=".".join(map(str, broker.version())),
        identity=running.identity,
        host=profile.host,
        port=profile.port,
        v5_port=profile.v5_port,
        websocket_port=profile.websocket_port,
        tls_port=profile.tls_port,
        username=profile.username,
        uptime=time.time() - running.started,
        memory_bytes=used.memory_bytes if used else None,
        cpu_seconds=used.cpu_seconds if used else None,
        trouble=trouble or None,
        lacks=tuple(LACKS[broker.backend].values()),
    )


def _trouble(profile: Profile) -> str:
    """Return why the broker does not let its own operator in, or an empty string."""
    try:
        answer = ask(login_of(profile))
    except BrokerUnreachable as error:
        return error.cause
    return "" if answer.accepted else f"it refuses its own operator: {answer.reason}"
