"""What brokers that run as a process of this machine have in common: start, stop, files, log, resources."""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.broker.backends import process_table
from mqttkit.broker.backends.directory_snapshot import DirectorySnapshot, empty
from mqttkit.broker.backends.log_file import log_lines, rotate_while_written
from mqttkit.broker.backends.port_choice import start_on_free_ports
from mqttkit.broker.backends.process_table import ProcessId
from mqttkit.broker.file_facts import FileFact, facts_below
from mqttkit.broker.file_names import DATABASE_FILE
from mqttkit.broker.probe import operator_login
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, read_profile, save_profile, save_spec
from mqttkit.broker.protocol import Resources, Running, UpResult
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError
from mqttkit.files import ManagedDirectory

log = logging.getLogger(__name__)

READY_SECONDS = 15.0
STOP_SECONDS = 30.0
"""A broker saves its database when it stops."""
SPARE_DESCRIPTORS = 64
"""File descriptors that a broker needs in addition to its connections."""


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
        """Return the command line, without any secret."""

    @abc.abstractmethod
    def _prepare(self, profile: Profile | None) -> Profile:
        """Write the files that the broker needs, and return its profile."""

    @abc.abstractmethod
    def _owns(self, arguments: list[str]) -> bool:
        """Return whether a command line is a broker of this backend."""

    def _check(self) -> None:
        """Raise `UsageError` for settings that contradict each other or that the backend does not support."""
        self.spec.check()

    def _owner(self) -> tuple[int, int] | None:
        """Return the (uid, gid) that the broker runs as, or None for the current user."""
        return None

    def _descriptors(self) -> int:
        """Return how many file descriptors the broker needs."""
        return 1_024

    @abc.abstractmethod
    def _prove(self) -> None:
        """Raise `LifecycleError` if the started broker cannot do its work."""

    def up(self) -> UpResult:
        """Start the broker and return when it has answered CONNECT; undo a start that fails."""
        self._check()
        profile = read_profile(self.paths)
        running = self._process()
        if running is not None and profile is not None and self.paths.spec.exists():
            wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: self._cause(running, 0))
            return UpResult(profile=profile, already=True, seconds=0.0)
        if running is not None:
            process_table.stop(running, seconds=STOP_SECONDS)
        return start_on_free_ports(self.spec, functools.partial(self._start_or_undo, profile))

    def down(self, *, volumes: bool = False) -> bool:
        """Stop the broker; with `volumes` remove all its files too. Return False if it did not run."""
        running = self._process()
        if running is not None:
            process_table.stop(running, seconds=STOP_SECONDS)
        self.paths.pid.unlink(missing_ok=True)
        if volumes:
            empty(self.paths.directory)
        return running is not None

    def running(self) -> Running | None:
        """Return the running broker, or None."""
        process = self._process()
        if process is None:
            return None
        halted = "hung" if process_table.is_stopped(process.pid) else ""
        return Running(pid=process.pid, started=process.started, identity=f"pid {process.pid}", halted=halted)

    def signal(self, name: str) -> None:
        """Send HUP or USR1 to the running broker."""
        os.kill(self._require_running().pid, signal.Signals[f"SIG{name}"])

    def resume(self) -> None:
        """Let a paused broker (SIGSTOP) continue."""
        os.kill(self._require_running().pid, signal.SIGCONT)

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None if there is no such file; a symbolic link is an error."""
        return self.files.read(name)

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file; the broker's user owns it, mode 0600."""
        self.files.write(name, content)

    def remove_file(self, name: str) -> None:
        """Remove a file, or do nothing if there is no such file."""
        self.files.remove(name)

    def file_stamp(self, name: str) -> str | None:
        """Return inode, time and size of a file, or None if there is no such file."""
        found = self.files.status(name)
        return None if found is None else f"{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"

    def log_lines(self, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the last `tail` lines of the log; with `follow`, continue with each new line."""
        yield from log_lines(self.paths.log, tail=tail, follow=follow)

    def resources(self) -> Resources | None:
        """Return what the running broker uses, or None if it does not run."""
        process = self._process()
        if process is None:
            return None
        return Resources(
            memory_bytes=process_table.memory_bytes(process.pid), cpu_seconds=process_table.cpu_seconds(process.pid)
        )

    def last_save(self) -> float | None:
        """Return when the database was saved, seconds since the epoch, or None."""
        found = self.files.status(DATABASE_FILE)
        return None if found is None else found.st_mtime

    def file_facts(self) -> Iterator[FileFact]:
        """Yield owner, mode and kind of each file below the broker's root."""
        owner = self._owner()
        yield from facts_below(self.files, owner[0] if owner else os.geteuid())

    def data_directory(self) -> Path | None:
        """Return the directory of its data."""
        return self.paths.root / "data"

    def restart_policy(self) -> str | None:
        """Return None: nothing restarts a plain process."""
        return None

    def stopped_by_hand(self) -> bool | None:
        """Return False: that is a mark of a container engine."""
        return False

    def _process(self) -> ProcessId | None:
        """Return the broker's process: by pid file, or by working directory if a killed `up` left no pid file."""
        process = process_table.read_pid(self.paths.pid)
        if process is None and self.paths.root.is_dir():
            process = process_table.find_by_directory(self.paths.root, self._owns)
        return process

    def _require_running(self) -> ProcessId:
        process = self._process()
        if process is None:
            raise LifecycleError(f"broker {self.spec.name!r} is not running", hint="Start it with: mqttkit broker up")
        return process

    @property
    def files(self) -> ManagedDirectory:
        """The broker's own directory, to which its user may write."""
        return ManagedDirectory(self.paths.root, owner=self._owner())

    def _start_or_undo(self, profile: Profile | None, spec: BrokerSpec) -> UpResult:
        """Start the broker with these ports; a start that fails leaves no process and the old files."""
        asked, before = self.spec, DirectorySnapshot.of(self.paths)
        self.spec = spec
        try:
            return self._start(profile)
        except BaseException:
            self._undo(before)
            self.spec = asked
            raise

    def _start(self, profile: Profile | None) -> UpResult:
        self.files.make("config")
        for name in self.files.repair():
            log.info("owner and mode of %s repaired", name)
        save_spec(self.paths, self.spec)
        profile = self._prepare(profile)
        save_profile(self.paths, profile)
        rotate_while_written(self.paths.log)
        offset = self.paths.log.stat().st_size if self.paths.log.exists() else 0
        process = self._launch()
        process_table.write_pid(self.paths.pid, process)
        seconds = wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: self._cause(process, offset))
        self._prove()
        return UpResult(profile=profile, already=False, seconds=seconds)

    def _undo(self, before: DirectorySnapshot) -> None:
        """Undo a start that failed: stop the process and restore the files."""
        process = self._process()
        if process is not None:
            process_table.stop(process, seconds=STOP_SECONDS)
        self.paths.pid.unlink(missing_ok=True)
        before.restore(self.paths.directory)

    def _launch(self) -> ProcessId:
        """Start the process in a new session, with the broker's root as its working directory.

        Its files are named relative to that, so that the broker's user needs no access to the directories above.
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
        process = process_table.identify(child.pid)  # before anyone waits for it: it may have ended already
        threading.Thread(target=child.wait, name="reap-broker", daemon=True).start()
        return process

    def _cause(self, process: ProcessId, offset: int) -> str:
        """Return the last errors in the log since `offset` if the process is gone, else an empty string."""
        if process.alive:
            return ""
        with self.paths.log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if "rror" in line] or lines
        return "; ".join(errors[-3:]) or "its log is empty"


@contextlib.contextmanager
def descriptor_limit(wanted: int) -> Iterator[None]:
    """Let a child started inside have at least that many file descriptors, or as many as this user may have.

    The limit is this process's own while the child starts, and this process may have more files open: it is never
    lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < wanted:
        log.warning("the broker needs %d file descriptors and may have %d: raise `ulimit -Hn`", wanted, limit)
    if soft != resource.RLIM_INFINITY and limit > soft:
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
    """Start a process; raise `LifecycleError` if that fails."""
    try:
        return subprocess.Popen(command, **options)
    except OSError as error:
        raise LifecycleError(f"{command[0]} cannot run: {error.strerror}") from error
