"""What brokers that run as a process of this machine share: start, stop, files, log, resources."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.broker.backends import process_table
from mqttkit.broker.backends.directory_snapshot import DirectorySnapshot, empty
from mqttkit.broker.backends.process_table import ProcessId
from mqttkit.broker.file_facts import FileFact, facts_below
from mqttkit.broker.ports import free_port, require_free
from mqttkit.broker.probe import Login
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, read_profile, save_profile, save_spec
from mqttkit.broker.protocol import Resources, Running, UpResult
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError, UsageError
from mqttkit.files import write_secret

log = logging.getLogger(__name__)

READY_SECONDS = 15.0
STOP_SECONDS = 30.0
"""A broker writes its database when it stops."""
LOG_LIMIT = 10 * 1024 * 1024
"""Bytes beyond which `up` puts the old log aside."""
FOLLOW_SECONDS = 0.1
SPARE_DESCRIPTORS = 64
"""File descriptors that a broker needs beside its connections."""


class LocalBroker(abc.ABC):
    """A broker that is a process of this machine and outlives the command that started it."""

    backend: str

    def __init__(self, spec: BrokerSpec, paths: BrokerPaths) -> None:
        self.spec = spec
        self.paths = paths

    @abc.abstractmethod
    def version(self) -> tuple[int, ...]:
        """Return the broker program's version."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """Return the command line; it holds no secret."""

    @abc.abstractmethod
    def _prepare(self, profile: Profile | None) -> Profile:
        """Write the files that the broker needs, and return the profile to keep."""

    @abc.abstractmethod
    def _owns(self, arguments: list[str]) -> bool:
        """Tell whether a command line is this backend's broker."""

    def _owner(self) -> tuple[int, int] | None:
        """Return (uid, gid) that the broker runs as, or None for our own."""
        return None

    def _descriptors(self) -> int:
        """Return the file descriptors that the broker needs."""
        return 1_024

    @abc.abstractmethod
    def _prove(self) -> None:
        """Raise `LifecycleError` where the started broker cannot do its work."""

    def up(self) -> UpResult:
        """Start the broker and return when it has answered CONNECT; whatever fails undoes a partial start."""
        self.spec.check()
        profile = read_profile(self.paths)
        running = self._process()
        if running is not None and profile is not None:
            wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: self._cause(running, 0))
            return UpResult(profile=profile, already=True, seconds=0.0)
        if running is not None:
            process_table.stop(running, seconds=STOP_SECONDS)
        before = DirectorySnapshot.of(self.paths)
        try:
            return self._start(profile)
        except BaseException:
            self._undo(before)
            raise

    def down(self, *, volumes: bool = False) -> bool:
        """End the broker; with `volumes` remove all it left. Return False if none ran."""
        running = self._process()
        if running is not None:
            process_table.stop(running, seconds=STOP_SECONDS)
        self.paths.pid.unlink(missing_ok=True)
        if volumes:
            empty(self.paths.directory)
        return running is not None

    def running(self) -> Running | None:
        """Return the broker that runs, or None."""
        process = self._process()
        if process is None:
            return None
        return Running(pid=process.pid, started=process.started, identity=f"pid {process.pid}")

    def signal(self, name: str) -> None:
        """Send HUP or USR1 to the running broker."""
        os.kill(self._require_running().pid, signal.Signals[f"SIG{name}"])

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None; a symbolic link is refused."""
        try:
            descriptor = os.open(self.paths.root / name, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(
                    f"{self.paths.root / name} is a symbolic link: refused", hint="Put the file itself there"
                ) from error
            raise LifecycleError(f"cannot read {self.paths.root / name}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file of the broker's; owned by its user, mode 0600."""
        path = self.paths.root / name
        self._directory(path.parent)
        write_secret(path, content, owner=self._owner())

    def remove_file(self, name: str) -> None:
        """Remove a file of the broker's."""
        (self.paths.root / name).unlink(missing_ok=True)

    def file_stamp(self, name: str) -> str | None:
        """Return inode, time and size of a file of the broker's."""
        try:
            found = (self.paths.root / name).stat()
        except FileNotFoundError:
            return None
        return f"{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"

    def log_lines(self, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the log's last `tail` lines; with `follow`, go on as lines come."""
        try:
            file = self.paths.log.open("rb")
        except FileNotFoundError:
            return
        with file:
            lines = file.read().decode(errors="replace").splitlines()
            yield from lines if tail is None else lines[max(0, len(lines) - tail) :]
            while follow:
                line = file.readline()
                if line.endswith(b"\n"):
                    yield line[:-1].decode(errors="replace")
                else:
                    file.seek(-len(line), os.SEEK_CUR)
                    time.sleep(FOLLOW_SECONDS)

    def resources(self) -> Resources | None:
        """Return what the running broker uses, or None where none runs."""
        process = self._process()
        if process is None:
            return None
        return Resources(
            memory_bytes=process_table.memory_bytes(process.pid), cpu_seconds=process_table.cpu_seconds(process.pid)
        )

    def last_save(self) -> float | None:
        """Return when the database was written, seconds since the epoch, or None."""
        try:
            return (self.paths.root / "data" / "mosquitto.db").stat().st_mtime
        except FileNotFoundError:
            return None

    def file_facts(self) -> Iterator[FileFact]:
        """Yield owner, mode and kind of each file below the broker's root."""
        owner = self._owner()
        yield from facts_below(self.paths.root, owner[0] if owner else os.geteuid())

    def data_directory(self) -> Path | None:
        """Return where its data lies."""
        return self.paths.root / "data"

    def restart_policy(self) -> str | None:
        """Nothing starts a plain process again."""
        return None

    def _process(self) -> ProcessId | None:
        """Return the broker's process: by pid file, or by where it works if a killed `up` left none."""
        process = process_table.read_pid(self.paths.pid)
        if process is None and self.paths.root.is_dir():
            process = process_table.find_by_directory(self.paths.root, self._owns)
        return process

    def _require_running(self) -> ProcessId:
        process = self._process()
        if process is None:
            raise LifecycleError(f"broker {self.spec.name!r} does not run", hint="Start it with: mqttkit broker up")
        return process

    def _start(self, profile: Profile | None) -> UpResult:
        self.spec = with_ports(self.spec)
        self._directory(self.paths.root)
        save_spec(self.paths, self.spec)
        profile = self._prepare(profile)
        save_profile(self.paths, profile)
        offset = self._turn_log()
        process = self._launch()
        process_table.write_pid(self.paths.pid, process)
        seconds = wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: self._cause(process, offset))
        self._prove()
        return UpResult(profile=profile, already=False, seconds=seconds)

    def _undo(self, before: DirectorySnapshot) -> None:
        """Take back a start that failed: no process, and the files that were there before."""
        process = self._process()
        if process is not None:
            process_table.stop(process, seconds=STOP_SECONDS)
        self.paths.pid.unlink(missing_ok=True)
        before.restore(self.paths.directory)

    def _launch(self) -> ProcessId:
        """Start the process in a session of its own, its working directory the broker's root.

        The files are named relative to it, so that the broker's user needs no right on the directories above.
        """
        owner = self._owner()
        with _log_file(self.paths.log) as log, descriptor_limit(self._descriptors()):
            child = _popen(
                self._command(),
                cwd=self.paths.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=owner[0] if owner else None,
                group=owner[1] if owner else None,
                extra_groups=[] if owner else None,
            )
        threading.Thread(target=child.wait, name="reap-broker", daemon=True).start()
        return process_table.identify(child.pid)

    def _cause(self, process: ProcessId, offset: int) -> str:
        """Return the log's last words since `offset` if the process is gone, else an empty string."""
        if process.alive:
            return ""
        with self.paths.log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if "rror" in line] or lines
        return "; ".join(errors[-3:]) or "it left no word in its log"

    def _directory(self, path: Path) -> None:
        """Make a directory of the broker's and those above it up to its root; mode 0700, its user's."""
        if path != self.paths.root:
            self._directory(path.parent)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self._owner()
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)

    def _turn_log(self) -> int:
        """Put a long log aside, and return the size of what remains."""
        with contextlib.suppress(FileNotFoundError):
            size = self.paths.log.stat().st_size
            if size <= LOG_LIMIT:
                return size
            self.paths.log.replace(self.paths.log.with_suffix(".log.1"))
        return 0


def operator_login(profile: Profile) -> Login:
    """Return the operator's login to the profile's plain listener."""
    return Login(
        host=profile.host,
        port=profile.port,
        version="5" if profile.version == "5" else "311",
        username=profile.username,
        password=profile.password,
    )


def with_ports(spec: BrokerSpec) -> BrokerSpec:
    """Return the spec with a free port where it asks for one; raise `PortTaken` for one that is not free."""
    if not spec.port:
        spec = dataclasses.replace(spec, port=free_port(spec.listen))
    require_free(spec.listen, spec.port)
    if spec.websocket_port:
        require_free(spec.listen, spec.websocket_port, option="--websocket-port")
    if spec.tls_port:
        require_free(spec.listen, spec.tls_port, option="--tls-port")
    return spec


def reachable_host(listen: str) -> str:
    """Return the address at which this machine reaches a listener bound to `listen`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(listen, listen)  # noqa: S104 - names it


@contextlib.contextmanager
def descriptor_limit(wanted: int) -> Iterator[None]:
    """Let a child started inside have that many file descriptors, or as many as we may give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < wanted:
        log.warning("the broker wants %d file descriptors and may have %d: raise `ulimit -Hn`", wanted, limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process; raise `LifecycleError` where it cannot be run."""
    try:
        return subprocess.Popen(command, **options)
    except OSError as error:
        raise LifecycleError(f"{command[0]} cannot be run: {error.strerror}") from error
