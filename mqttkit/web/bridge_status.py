"""The status of bridges: their health pages, and the members of groups that report to the broker."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from mqttkit.addresses import show_address
from mqttkit.formats.visible import visible
from mqttkit.web.branches import BranchMessage

POLL_SECONDS = 2.0
ANSWER_SECONDS = 2.0
MISSING_SECONDS = 20.0
"""A member of a group that was silent for so long is missing."""
MAX_ANSWER = 64 * 1024
"""Bytes read of an answer."""
MAX_MEMBERS = 100
FIGURES = {
    "mqttkit_bridge_stored_metrics_total": "stored",
    "mqttkit_bridge_duplicate_metrics_total": "duplicates",
    "mqttkit_bridge_in_flight_messages": "in flight",
    "mqttkit_bridge_queue_fill_ratio": "queue fill",
    "mqttkit_bridge_commit_retries_total": "commit retries",
    "mqttkit_bridge_lost_sessions_total": "lost sessions",
}
"""Samples of /metrics that the page shows, and their labels."""


class BridgePages:
    """Requests the health pages of bridges, in a separate thread for as long as the context is open."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._addresses = addresses
        self._stopped = threading.Event()
        self._rows: dict[tuple[str, int], dict[str, object]] = {}
        self._thread = threading.Thread(target=self._run, name="web-bridges", daemon=True)

    def __enter__(self) -> BridgePages:
        if self._addresses:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._addresses:
            self._thread.join()

    def rows(self) -> list[dict[str, object]]:
        """Return the latest status of each bridge. Any thread may call it."""
        return [self._rows[each] for each in self._addresses if each in self._rows]

    def _run(self) -> None:
        while True:
            for host, port in self._addresses:
                self._rows[host, port] = {"name": show_address(host, port), **read_health(host, port)}
                if self._stopped.is_set():
                    return
            if self._stopped.wait(POLL_SECONDS):
                return


def read_health(host: str, port: int) -> dict[str, object]:
    """Return state, reasons and figures from a bridge's health page."""
    try:
        _, body = _get(host, port, "/readyz")
        answer = json.loads(body)
        ready, reasons, warnings = bool(answer["ok"]), list(answer["reasons"]), list(answer["warnings"])
        code, text = _get(host, port, "/metrics")
    except (OSError, http.client.HTTPException) as error:
        return {"state": "unreachable", "reasons": [str(error) or type(error).__name__], "figures": {}}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"state": "unknown", "reasons": ["this is not the health page of a bridge"], "figures": {}}
    texts = [visible(str(reason)[:300]) for reason in (*reasons, *warnings)][:20]
    figures = _figures(text) if code == http.client.OK else {}
    return {"state": "ready" if ready else "not ready", "reasons": texts, "figures": figures}


class BridgeMembers:
    """Members of groups of bridges, from their retained messages below `prefix`. Use it from one thread."""

    def __init__(self, prefix: str) -> None:
        """`prefix` is that of `mqttkit.bridge.metric.reserved_prefix`."""
        self.prefix = f"{prefix}group"
        self._members: dict[tuple[str, str], tuple[str, float]] = {}

    def add(self, values: list[BranchMessage]) -> None:
        """Take the messages of members. An empty one says that the member has left."""
        for value in values:
            group, slash, name = value.topic.removeprefix(f"{self.prefix}/").partition("/")
            key = (group, unquote(name))
            if not value.payload or not slash:
                self._members.pop(key, None)
            elif key in self._members or len(self._members) < MAX_MEMBERS:
                self._members[key] = (_host(value.payload), value.when)

    def rows(self, now: float) -> list[dict[str, object]]:
        """Return the status of each member."""
        return [
            {
                "name": visible(name[:100]),
                "state": "running" if now - when < MISSING_SECONDS else "missing",
                "reasons": [],
                "figures": {"group": visible(group[:100]), "machine": host, "last message": f"{now - when:.0f} s ago"},
            }
            for (group, name), (host, when) in sorted(self._members.items())
        ]


def _host(payload: bytes) -> str:
    try:
        found: Any = json.loads(payload)
        return visible(str(found["host"])[:100])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "?"


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER)
    finally:
        connection.close()


def _figures(text: bytes) -> dict[str, str]:
    found = {}
    for line in text.decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        if name in FIGURES:
            try:
                found[FIGURES[name]] = f"{float(value):,g}" if float(value) < 1 else f"{float(value):,.0f}"
            except ValueError:
                continue
    return found
