"""A real PostgreSQL with a data directory of the test's own, on a loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.brokers import end, free_port, missing

SETTINGS = "fsync=off,full_page_writes=off,shared_buffers=16MB,autovacuum=off"


def _programs() -> Path:
    """Return the directory with initdb and postgres, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        missing("postgresql is not installed")
    return Path(on_path or "").parent


@dataclass
class Postgres:
    """A PostgreSQL that can be stopped, killed, paused and started again on the same port."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the data directory where there is none, start, and wait for an answer."""
        programs = _programs()
        data = self.directory / "data"
        as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if not data.exists():
            if as_user:
                shutil.chown(self.directory, **as_user)
            command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **as_user)  # type: ignore[call-overload]
        settings = [part for setting in SETTINGS.split(",") for part in ("-c", setting)]
        listen = ["-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        with (self.directory / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data), *listen, *settings],
                stdout=log,
                stderr=log,
                cwd="/",
                **as_user,  # type: ignore[call-overload]
            )
        self._wait()

    def _wait(self) -> None:
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def send(self, number: int) -> None:
        """Send a signal to it and its children."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it and wait until it is gone; SIGINT is its fast shutdown."""
        if self.process is None:
            return
        self.send(signal.SIGCONT)
        end(self.process, number)
        self.process = None


@contextlib.contextmanager
def postgres(_directory: Path) -> Iterator[Postgres]:
    """Run a PostgreSQL, in a directory that its user can reach: not in root's, where tests have theirs."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-postgres-") as directory:
        server = Postgres(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()
