"""A metric as a line of InfluxDB's line protocol. Pure.

temperature,agent_id=a,tenant_id=6f1d…,unit=C value=21.5,dedupe_id="a-42" 1700000000123000000
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from mqttkit.bridge.metric import Metric
from mqttkit.errors import SinkRefused

RESERVED = frozenset({"tenant_id", "agent_id", "metric_name", "dedupe_id", "value", "time", "db", "__name__"})
"""Names that a tag of a payload must not have, because they are columns of ours or words of a server."""
MAX_LINE = 65_536
"""Bytes. The servers accept 256 KiB (VictoriaMetrics) and more."""

STORED = (204,)
"""The status of a server that has taken the lines. A proxy that answers instead of the server sends 200."""

CACHED_SERIES = 10_000
"""Series whose text is kept: encoding it takes most of the time of a line."""

_SPECIAL = re.compile(r"[,= ]")
_UNFIT = re.compile(r"[\x00-\x1f\x7f]|\\(?=[,= ]|$)")
"""Control characters, and a backslash that the server would read as an escape."""


def series_of(metric: Metric) -> str:
    """Return measurement and tags in the order of their names, which identify the series; raise SinkRefused."""
    return _series(metric.metric_name, metric.agent_id, metric.tenant_id, metric.tags)


@lru_cache(CACHED_SERIES)
def _series(measurement: str, agent_id: str, tenant_id: str, tags: str | None) -> str:
    own = {"agent_id": agent_id, "tenant_id": tenant_id}
    return join_series(measurement, {**own, **_payload_tags(tags)} if tags is not None else own)


def join_series(measurement: str, tags: dict[str, str]) -> str:
    """Return measurement and tags in the order of their names, escaped."""
    return ",".join((escaped(measurement), *(f"{escaped(name)}={escaped(tags[name])}" for name in sorted(tags))))


def escaped(text: str) -> str:
    """Escape the characters that separate the parts of a line."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def quoted(text: str) -> str:
    """Return a string field."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def check_length(line: str) -> str:
    """Return the line; raise SinkRefused if no server would accept it."""
    if len(line) > MAX_LINE // 4 and len(line.encode()) > MAX_LINE:
        raise SinkRefused(f"a line of {len(line.encode())} bytes, the limit is {MAX_LINE}")
    return line


def _payload_tags(given: str) -> dict[str, str]:
    texts = {name: _text(value) for name, value in json.loads(given).items()}
    tags = {name: text for name, text in texts.items() if text}
    for name, text in tags.items():
        if name in RESERVED or name.startswith("_") or not name:
            raise SinkRefused(f"a tag must not have the name {name!r} in line protocol")
        if _UNFIT.search(name) or _UNFIT.search(text):
            raise SinkRefused(f"line protocol cannot carry the tag {name[:40]!r}: a control character or a backslash")
    return tags


def _text(value: Any) -> str:
    """Return a tag's value as text; nothing for null, because line protocol has no empty tag."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
