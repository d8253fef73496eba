"""A real InfluxDB and a real VictoriaMetrics, each with a data directory of the test's own, on loopback ports."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bridges import wait_until
from tests.support.brokers import end, free_port, need

_INFLUX = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{directory}/meta"
[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
"""


@dataclass
class LineServer:
    """A server of line protocol that can be stopped, killed, paused and started again on the same port."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """How to start it."""
        raise NotImplementedError

    health = "/"

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        wait_until(self._serves)

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.health}", timeout=5):
                return True
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self.process is None:
            return
        end(self.process, number)
        self.process = None

    def ask(self, path: str, **form: str) -> str:
        """POST a form; return the answer."""
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=60) as answer:
            return str(answer.read().decode())


class Influx(LineServer):
    """InfluxDB 1.x."""

    health = "/ping"

    def command(self) -> list[str]:
        conf = self.directory / "influxdb.conf"
        if not conf.exists():
            conf.write_text(_INFLUX.format(rpc=free_port(), port=self.port, directory=self.directory))
        return [need("influxd"), "run", "-config", str(conf)]

    def query(self, statement: str, database: str = "") -> list[list[Any]]:
        """Return the rows of a statement."""
        (result,) = json.loads(self.ask("/query", q=statement, db=database))["results"]
        assert "error" not in result, result
        return [row for series in result.get("series", ()) for row in series["values"]]

    def address(self, database: str) -> str:
        """Address of a database as a sink, created now."""
        self.query(f'CREATE DATABASE "{database}"')
        return f"influx://127.0.0.1:{self.port}/{database}"


class Victoria(LineServer):
    """VictoriaMetrics, single node; a hundred years of retention unless an option says otherwise."""

    health = "/health"

    def command(self) -> list[str]:
        fixed = (f"-storageDataPath={self.directory}/data", f"-httpListenAddr=127.0.0.1:{self.port}")
        options = self.options or ("-retentionPeriod=100y",)
        return [need("victoria-metrics"), *fixed, "-loggerLevel=WARN", "-memory.allowedBytes=64MB", *options]

    @property
    def url(self) -> str:
        """Address as a sink."""
        return f"victoria://127.0.0.1:{self.port}"

    def samples(self, match: str) -> list[tuple[dict[str, str], float, int]]:
        """Return labels, value and time stamp of each sample that a selector matches."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/internal/force_flush", timeout=60):
            pass
        found = []
        for line in self.ask("/api/v1/export", **{"match[]": match, "start": "0", "end": "9999999999"}).splitlines():
            series = json.loads(line)
            for value, stamp in zip(series["values"], series["timestamps"], strict=True):
                found.append((series["metric"], value, stamp))
        return found


@contextlib.contextmanager
def influx_server(directory: Path) -> Iterator[Influx]:
    """Run an InfluxDB."""
    yield from _running(Influx(directory))


@contextlib.contextmanager
def victoria_server(directory: Path, *options: str) -> Iterator[Victoria]:
    """Run a VictoriaMetrics."""
    yield from _running(Victoria(directory, options=options))


def _running(server: Any) -> Iterator[Any]:
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
