"""The broker's life: one protocol over three backends, and what each backend can and cannot give."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mqttkit.broker.facts import FileFact
from mqttkit.broker.ports import demand_free
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, load_spec, locked
from mqttkit.errors import LifecycleError, MissingPart, MqttkitError, PermissionMissing, UsageError

__all__ = [
    "BACKENDS",
    "LACKS",
    "Broker",
    "BrokerPaths",
    "BrokerSpec",
    "Feature",
    "Profile",
    "Resources",
    "Running",
    "UpResult",
    "existing_broker",
    "open_broker",
    "require",
    "restart_broker",
    "start_broker",
    "temporary_broker",
    "usable_backends",
]

log = logging.getLogger(__name__)

BACKENDS = {
    "docker": ("mqttkit.broker.docker_backend", "DockerBroker"),
    "process": ("mqttkit.broker.process_backend", "ProcessBroker"),
    "embedded": ("mqttkit.broker.embedded_backend", "EmbeddedBroker"),
}
"""Each backend's module and class, in the order in which `auto` tries them."""


class Feature(enum.Enum):
    """What a backend may be asked for; the value is the word that users read."""

    USERS = "users"
    ACL = "acl"
    RELOAD = "reload"
    TLS = "tls"
    WEBSOCKETS = "websockets"
    STATISTICS = "$SYS statistics"
    PERSISTENCE = "persistence"
    TUNING = "tuning"
    ONE_PORT = "MQTT 3.1.1 and 5 on one port"
    REFUSALS = "named refusals"
    RETAINED = "any number of retained messages"
    UNSUBACK = "an answer to every UNSUBSCRIBE"
    MEMORY_LIMIT = "memory limit"


LACKS: dict[str, dict[Feature, str]] = {
    "docker": {},
    "process": {
        Feature.MEMORY_LIMIT: "no memory limit: the broker is a plain process",
    },
    "embedded": {
        Feature.USERS: "one user, set when it starts: there is no users file",
        Feature.ACL: "no ACL: its user may read and write every topic",
        Feature.RELOAD: "no reload: a change takes a restart",
        Feature.TLS: "no TLS listener",
        Feature.WEBSOCKETS: "no WebSocket listener",
        Feature.STATISTICS: "no $SYS topics",
        Feature.PERSISTENCE: "retained messages and sessions are lost when it stops",
        Feature.TUNING: "no tuning settings",
        Feature.ONE_PORT: "MQTT 3.1.1 and MQTT 5 listen on separate ports",
        Feature.REFUSALS: "a refused client sees its connection closed, without a reason",
        Feature.RETAINED: "of retained messages a new subscriber gets at most 10000",
        Feature.UNSUBACK: "no answer to UNSUBSCRIBE where there is no such subscription",
        Feature.MEMORY_LIMIT: "no memory limit: the broker is a plain process",
    },
}
"""What each backend cannot give, and the words that say so."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A broker that runs now."""

    pid: int
    """Process id of the broker, as this machine sees it."""
    started: float
    """Seconds since the epoch at which it started."""
    identity: str
    """What names it beyond doubt: `pid 123` or a container's id."""
    health: str | None = None
    """What its container's health check found: `starting`, `healthy` or `unhealthy`; None where nothing checks it."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a running broker uses."""

    memory_bytes: int
    """Resident memory."""
    cpu_seconds: float
    """Processor time used since it started."""
    limit_bytes: int | None = None
    """Memory limit; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class UpResult:
    """What `up` came to."""

    profile: Profile
    """How to reach the broker."""
    already: bool
    """True where it ran before and nothing was done."""
    seconds: float
    """Seconds from the broker's start to its CONNACK; 0 where it ran before."""


class Broker(Protocol):
    """One broker of one backend. Every method may raise `LifecycleError`.

    File names are relative to the broker's own root (`/mosquitto` in a container, `paths.root` of a process):
    `config/mosquitto.conf`, `config/passwd`, `config/acl`, `config/certs/…`, `data/mosquitto.db`.
    Callers hold `profile.locked(paths)` around what changes the broker; the methods themselves take no lock.
    """

    backend: str
    spec: BrokerSpec
    paths: BrokerPaths

    @classmethod
    def unusable(cls) -> str:
        """Return why this backend cannot be used on this machine, or an empty string. Answers within 3 s."""
        ...

    def up(self) -> UpResult:
        """Start the broker and return when it has answered CONNECT; whatever fails undoes a partial start."""
        ...

    def down(self, *, volumes: bool = False) -> bool:
        """End the broker; with `volumes` remove its data, users and profile too. Return False if none ran."""
        ...

    def running(self) -> Running | None:
        """Return the broker that runs, or None."""
        ...

    def version(self) -> tuple[int, ...]:
        """Return the broker program's version, such as (2, 0, 11)."""
        ...

    def signal(self, name: str) -> None:
        """Send HUP (reload) or USR1 (save) to the running broker."""
        ...

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        ...

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file: written beside, synced, renamed; owned by the broker's user, mode 0600."""
        ...

    def remove_file(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        ...

    def file_stamp(self, name: str) -> str | None:
        """Return what differs whenever a file of the running broker is replaced, or None where there is none."""
        ...

    def log_lines(self, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the log's last `tail` lines (all where None); with `follow`, go on as lines come."""
        ...

    def resources(self) -> Resources | None:
        """Return what the running broker uses, or None where none runs."""
        ...

    def last_save(self) -> float | None:
        """Return when data/mosquitto.db was written, seconds since the epoch; None where it never was."""
        ...

    def file_facts(self) -> Iterable[FileFact]:
        """Return owner, mode and kind of each file of the broker; nothing where they cannot be seen."""
        ...

    def data_directory(self) -> Path | None:
        """Return where its data lies on this machine; None where it lies on no volume."""
        ...

    def restart_policy(self) -> str | None:
        """Return what starts it again after a crash, in the engine's word; None where nothing does."""
        ...


def require(broker: Broker, feature: Feature, what: str) -> None:
    """Raise `UsageError` naming `what` where the broker's backend lacks the feature."""
    lack = LACKS[broker.backend].get(feature)
    if lack is not None:
        raise UsageError(
            f"{what} is not possible with the {broker.backend} backend: {lack}",
            hint="Start one that can: mqttkit broker up --backend process",
        )


def open_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> Broker:
    """Return the broker of `spec`; its backend `auto` is the first that can be used on this machine."""
    name = usable_backends()[0] if spec.backend == "auto" else spec.backend
    backend = _backend(name)
    return backend(spec.with_backend(name), paths or BrokerPaths.of(spec.name))  # type: ignore[no-any-return]  # named by a table


def start_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> tuple[Broker, UpResult]:
    """Bring a broker up; with `auto`, a backend that misses a part gives way to the next one.

    Raises `UsageError` where a broker of that name runs already and is not what `spec` asks for.
    """
    place = paths or BrokerPaths.of(spec.name)
    with locked(place):
        spec = _settled(spec, place)
        names = usable_backends() if spec.backend == "auto" else [spec.backend]
        for name in names:
            broker = open_broker(spec.with_backend(name), place)
            try:
                return broker, broker.up()
            except MissingPart as error:
                if name == names[-1] or isinstance(error, PermissionMissing):
                    raise
                log.warning("the %s backend cannot be used: %s", name, error)
    raise LifecycleError("no backend was tried")


def restart_broker(spec: BrokerSpec) -> tuple[Broker, UpResult]:
    """End the broker of the spec's name and start it as the spec says.

    What can be known to fail is refused before the broker is ended; where the start fails all the same, the
    broker comes back as it was. Raises `UsageError`, `PortTaken`, `LifecycleError`.
    """
    broker = existing_broker(spec.name)
    spec.check()
    old = broker.spec
    if spec.backend not in ("auto", old.backend):
        raise UsageError(f"broker {spec.name!r} is set up with the {old.backend} backend, not {spec.backend}")
    held = {old.port, old.websocket_port, old.tls_port}
    for port in {spec.port, spec.websocket_port, spec.tls_port} - held - {None, 0}:
        demand_free(spec.listen, int(port or 0))
    _demand_sound_files(broker)
    with locked(broker.paths):
        broker.down()
    try:
        return start_broker(spec)
    except MqttkitError:
        if spec != old:
            start_broker(old)
        raise


def _demand_sound_files(broker: Broker) -> None:
    """Raise `UsageError` where users or ACL, as they are now, would keep the broker from starting."""
    from mqttkit.broker.acl import AclFile
    from mqttkit.broker.passwords import PasswordFile

    if Feature.USERS in LACKS[broker.backend]:
        return
    kinds: tuple[tuple[type[AclFile | PasswordFile], str], ...] = (
        (PasswordFile, "config/passwd"),
        (AclFile, "config/acl"),
    )
    for kind, name in kinds:
        content = broker.read_file(name)
        if content is not None:
            kind.parse(content.decode(errors="replace"), where=name)


@contextlib.contextmanager
def temporary_broker(backend: str = "auto", *, anonymous: bool = False) -> Iterator[Profile]:
    """Run a broker on a free loopback port for as long as the block lasts, and leave nothing behind."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mqttkit-broker-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        spec = BrokerSpec(
            name=f"temporary-{os.urandom(4).hex()}",
            backend=backend,
            port=0,
            anonymous=anonymous,
            temporary=True,
        )
        broker, result = start_broker(spec, paths)
        try:
            yield result.profile
        finally:
            with locked(paths):
                broker.down(volumes=True)


def existing_broker(name: str = "default") -> Broker:
    """Return the broker that `up` set up under this name; raise `UsageError` where there is none."""
    paths = BrokerPaths.of(name)
    spec = load_spec(paths)
    if spec is None:
        option = "" if name == "default" else f" --name {name}"
        raise UsageError(f"there is no broker named {name!r}", hint=f"Start one with: mqttkit broker up{option}")
    return open_broker(spec, paths)


def _settled(spec: BrokerSpec, paths: BrokerPaths) -> BrokerSpec:
    """Return the spec with what is settled by the broker that is there; raise `UsageError` where they differ."""
    spec.check()
    stored = load_spec(paths)
    if stored is None:
        return spec
    spec = spec.with_backend(stored.backend if spec.backend == "auto" else spec.backend)
    websocket_port = stored.websocket_port if spec.websocket_port is None else spec.websocket_port
    spec = dataclasses.replace(spec, port=spec.port or stored.port, websocket_port=websocket_port)
    running = open_broker(stored, paths).running()
    for change in dataclasses.fields(BrokerSpec):
        old, new = getattr(stored, change.name), getattr(spec, change.name)
        if old != new and (running or change.name == "backend"):
            raise UsageError(
                f"broker {spec.name!r} is set up with {change.name} {old}, not {new}",
                hint=f"Take it down first: mqttkit broker down --name {spec.name}"
                + ("" if running and change.name != "backend" else " --volumes (its data is lost)"),
            )
    return spec


def _backend(name: str) -> Any:
    """Import a backend's class; only the chosen one is imported."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}", hint=f"Choose one of: auto, {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name]
    if importlib.util.find_spec(module) is None:
        raise MissingPart(f"the {name} backend is not part of this installation")
    return getattr(importlib.import_module(module), attribute)


def usable_backends() -> list[str]:
    """Return the backends that can be used here, the best first; raise `MissingPart` where there is none."""
    found, reasons = [], []
    for name in BACKENDS:
        try:
            reason = str(_backend(name).unusable())
        except MissingPart as error:
            reason = error.message
        if reason:
            reasons.append(f"{name}: {reason}")
        else:
            found.append(name)
    if not found:
        raise MissingPart(
            f"no broker can be started here ({'; '.join(reasons)})",
            hint="Install one with: apt-get install mosquitto, or: pip install 'mqttkit[embedded]'",
        )
    return found
