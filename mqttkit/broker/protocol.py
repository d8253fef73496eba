"""What every backend of a broker can do, and what each one cannot."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mqttkit.broker.file_facts import FileFact
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile
from mqttkit.errors import UsageError


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
