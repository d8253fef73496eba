"""What every backend of a broker can do, and what each one lacks."""

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
    """A capability that a backend has or lacks; the value is the word that users read."""

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
        Feature.USERS: "one user, set when it starts: it has no password file",
        Feature.ACL: "no ACL: its user may read and write every topic",
        Feature.RELOAD: "no reload: a change needs a restart",
        Feature.TLS: "no TLS listener",
        Feature.WEBSOCKETS: "no WebSocket listener",
        Feature.STATISTICS: "no $SYS topics",
        Feature.PERSISTENCE: "retained messages and sessions are lost when it stops",
        Feature.TUNING: "no tuning settings",
        Feature.ONE_PORT: "MQTT 3.1.1 and MQTT 5 listen on separate ports",
        Feature.REFUSALS: "the broker closes the connection of a refused client without a reason",
        Feature.RETAINED: "a new subscriber gets at most 10000 retained messages",
        Feature.UNSUBACK: "no answer to UNSUBSCRIBE if there is no such subscription",
        Feature.MEMORY_LIMIT: "no memory limit: the broker is a plain process",
    },
}
"""What each backend lacks, in words for users."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running broker."""

    pid: int
    """Process id of the broker on this machine."""
    started: float
    """When it started, seconds since the epoch."""
    identity: str
    """`pid 123` or the container's id."""
    health: str | None = None
    """Result of the container's health check: `starting`, `healthy` or `unhealthy`; None without a health check."""
    halted: str = ""
    """Why it does not work although it exists: `paused`, `crash-looping` or `hung`; empty if it works."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a running broker uses."""

    memory_bytes: int
    """Resident memory."""
    cpu_seconds: float
    """Processor time used since it started."""
    limit_bytes: int | None = None
    """Memory limit; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class UpResult:
    """The result of `up`."""

    profile: Profile
    """How to reach the broker."""
    already: bool
    """True if the broker was already running."""
    seconds: float
    """Seconds from the broker's start to its CONNACK; 0 if it was already running."""


class Broker(Protocol):
    """One broker of one backend. Every method may raise `LifecycleError`.

    File names are relative to the broker's root, as in `file_names`.
    Callers hold `profile.locked(paths)` while they change the broker; the methods themselves take no lock.
    """

    backend: str
    spec: BrokerSpec
    paths: BrokerPaths

    @classmethod
    def unusable(cls) -> str:
        """Return why this machine cannot use the backend, or an empty string, within 3 s."""
        ...

    def up(self) -> UpResult:
        """Start the broker and return when it has answered CONNECT; undo a start that fails."""
        ...

    def down(self, *, volumes: bool = False) -> bool:
        """Stop the broker; with `volumes` remove its data, users and profile too. Return False if it did not run."""
        ...

    def running(self) -> Running | None:
        """Return the running broker, or None."""
        ...

    def version(self) -> tuple[int, ...]:
        """Return the broker program's version, such as (2, 0, 11)."""
        ...

    def configuration(self) -> str:
        """Return the configuration file that `up` writes for the broker's settings."""
        ...

    def signal(self, name: str) -> None:
        """Send HUP (reload) or USR1 (save) to the running broker."""
        ...

    def resume(self) -> None:
        """Let a paused broker continue; do nothing if it is not paused."""
        ...

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None if there is no such file."""
        ...

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file by a new one that is synced and then renamed; the broker's user owns it, mode 0600."""
        ...

    def remove_file(self, name: str) -> None:
        """Remove a file, or do nothing if there is no such file."""
        ...

    def file_stamp(self, name: str) -> str | None:
        """Return a value that changes when the running broker's file is replaced, or None if there is no such file."""
        ...

    def log_lines(self, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the last `tail` lines of the log (None: all); with `follow`, continue with each new line."""
        ...

    def resources(self) -> Resources | None:
        """Return what the running broker uses, or None if it does not run."""
        ...

    def last_save(self) -> float | None:
        """Return when the database was saved, seconds since the epoch; None if it never was."""
        ...

    def file_facts(self) -> Iterable[FileFact]:
        """Return owner, mode and kind of each file of the broker."""
        ...

    def data_directory(self) -> Path | None:
        """Return the directory of its data on this machine; None if its data is not on a volume."""
        ...

    def restart_policy(self) -> str | None:
        """Return the engine's restart policy; None if nothing restarts the broker after a crash."""
        ...

    def stopped_by_hand(self) -> bool | None:
        """Return whether the engine ignores that policy because the broker was stopped by hand; None if unknown."""
        ...


def require(broker: Broker, feature: Feature, what: str) -> None:
    """Raise `UsageError` that names `what` if the broker's backend lacks the feature."""
    lack = LACKS[broker.backend].get(feature)
    if lack is not None:
        raise UsageError(
            f"{what} is not possible with the {broker.backend} backend: {lack}",
            hint="Start one that can: mqttkit broker up --backend process",
        )
