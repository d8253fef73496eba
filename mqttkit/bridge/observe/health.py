"""/livez, /readyz and /metrics over HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from mqttkit.bridge.flow.histogram import Histogram
from mqttkit.errors import BridgeError
from mqttkit.settings import BridgeSettings

logger = logging.getLogger(__name__)

PREFIX = "mqttkit_bridge_"
REQUEST_SECONDS = 5.0
"""The server drops a client that takes longer to send its request."""


@dataclass(frozen=True)
class Health:
    """What is wrong with the bridge. A list is empty if nothing is wrong."""

    not_live: list[str]
    """Reasons to restart the process."""
    not_ready: list[str]
    """Reasons why metrics do not flow."""
    warnings: list[str] = field(default_factory=list)
    """What an operator should do although metrics flow."""


@dataclass(frozen=True)
class Sample:
    """One Prometheus sample. `name` has no prefix; `kind` is counter, gauge or histogram."""

    name: str
    help: str
    kind: str
    value: float
    label: tuple[str, str] | None = None
    histogram: Histogram | None = None
    """For the kind histogram, which has no value."""
    output: str = ""
    """Name of the output, if there are several."""

    def of_output(self, name: str) -> Sample:
        """Return the sample with the label `output`."""
        return replace(self, output=name)

    def labels(self) -> dict[str, str]:
        """Return all labels."""
        labels = {"output": self.output} if self.output else {}
        return {**labels, **dict([self.label] if self.label else [])}


class HealthServer:
    """An HTTP server in a separate thread."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Callable[[], Health],
        samples: Callable[[], list[Sample]],
    ) -> None:
        answers = {"health": staticmethod(health), "samples": staticmethod(samples)}
        handler = type("Handler", (_Handler,), answers)
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise BridgeError(
                f"cannot serve health on {host}:{port}: {error.strerror}", hint="Choose another: --health-port"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="health", daemon=True
        )

    def __enter__(self) -> HealthServer:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_health(
    stack: contextlib.ExitStack,
    settings: BridgeSettings,
    *,
    health: Callable[[], Health],
    samples: Callable[[], list[Sample]],
) -> None:
    """Serve until the stack is closed, if the settings give a port; raise BridgeError."""
    if settings.health_port is None:
        return
    server = stack.enter_context(
        HealthServer(settings.health_host, settings.health_port, health=health, samples=samples)
    )
    logger.info("health on http://%s:%d", settings.health_host, server.port)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = REQUEST_SECONDS
    health: Callable[[], Health]
    samples: Callable[[], list[Sample]]

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.split("?", 1)[0]
        if path == "/livez":
            self._say(self.health().not_live, [])
        elif path == "/readyz":
            health = self.health()
            self._say(health.not_ready, health.warnings)
        elif path == "/metrics":
            self._metrics()
        else:
            self._send(404, "text/plain", b"not found; try /livez, /readyz or /metrics\n")

    def _say(self, reasons: list[str], warnings: list[str]) -> None:
        body = json.dumps({"ok": not reasons, "reasons": reasons, "warnings": warnings}).encode() + b"\n"
        self._send(503 if reasons else 200, "application/json", body)

    def _metrics(self) -> None:
        try:
            body, kind = render_metrics(self.samples())
        except ImportError:
            self._send(501, "text/plain", b"prometheus-client is not installed: pip install 'mqttkit[metrics]'\n")
        else:
            self._send(200, kind, body)

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes arrive every few seconds."""


def render_metrics(samples: list[Sample]) -> tuple[bytes, str]:
    """Return the samples in the Prometheus text format, and its content type; raise ImportError."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(samples))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Collector:
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        makers = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        families: dict[str, Any] = {}
        for sample in self._samples:
            name = PREFIX + sample.name
            labels = sample.labels()
            if name not in families:
                families[name] = makers[sample.kind](name, sample.help, labels=list(labels))
            if sample.histogram is None:
                families[name].add_metric(list(labels.values()), sample.value)
            else:
                buckets, total = sample.histogram.buckets()
                families[name].add_metric(list(labels.values()), buckets=buckets, sum_value=total)
        yield from families.values()
