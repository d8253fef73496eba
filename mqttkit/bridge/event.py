"""A metric as JSON: in live events, jobs, HTTP bodies and JSON lines."""

from __future__ import annotations

import msgspec

from mqttkit.bridge.metric import Metric

encode_json = msgspec.json.Encoder().encode


class Event(msgspec.Struct):
    """The columns of a metric, tags as an object."""

    tenant_id: str
    agent_id: str
    metric_name: str
    value: float
    timestamp_ms: int
    dedupe_id: str | None
    tags: msgspec.Raw | None
    received_ms: int


def event(metric: Metric) -> Event:
    """Return the metric as it is written in JSON."""
    tags = msgspec.Raw(metric.tags.encode()) if metric.tags else None
    return Event(*metric[:6], tags, metric.received_ms)
