"""A metric as JSON, for live events, jobs, HTTP bodies and JSON lines."""

from __future__ import annotations

import msgspec

from mqttkit.bridge.metric import Metric

encode_json = msgspec.json.Encoder().encode


class JsonRecord(msgspec.Struct):
    """The columns of a metric, with tags as an object."""

    tenant_id: str
    agent_id: str
    metric_name: str
    value: float
    timestamp_ms: int
    dedupe_id: str | None
    tags: msgspec.Raw | None
    received_ms: int


def json_record(metric: Metric) -> JsonRecord:
    """Return the metric in the form that is written as JSON."""
    tags = msgspec.Raw(metric.tags.encode()) if metric.tags else None
    return JsonRecord(*metric[:6], tags, metric.received_ms)
