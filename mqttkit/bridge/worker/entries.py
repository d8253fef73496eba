"""The entries of a Redis stream as metrics, or as dead letters that keep their topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from mqttkit.bridge.json_record import encode_json
from mqttkit.bridge.metric import Metric, MetricRefusal
from mqttkit.bridge.sinks.types import DeadLetter, MetricBatch, dead_letter
from mqttkit.errors import SinkBroken, SinkRefused
from mqttkit.messages import Message

StreamEntry = tuple[str, dict[str, str]]
"""Identifier and fields."""


def entries_of(found: Any) -> Iterator[StreamEntry]:
    """Yield the entries of an XREADGROUP answer, in any version of the protocol."""
    streams = found.values() if isinstance(found, dict) else (entries for _, entries in found or ())
    for entries in streams:
        for part in entries:
            yield from part if isinstance(part, list) else (part,)


def metric_of(name: str, fields: dict[str, str]) -> Metric:
    """Return the metric of an entry; raise KeyError or ValueError."""
    return Metric(
        fields["tenant_id"],
        fields["agent_id"],
        fields["metric_name"],
        float(fields["value"]),
        int(fields["timestamp_ms"]),
        fields.get("dedupe_id") or f"entry:{name}",
        fields.get("tags") or None,
        int(fields["received_ms"]),
    )


def letter_of(fields: dict[str, str], error: Exception, template: str) -> DeadLetter:
    """Return the dead letter of an entry that is not a metric. `template` is that of the bridge's topics."""
    message = Message(_topic(template, fields), encode_json(fields))
    return dead_letter(
        message, MetricRefusal.HANDLER_ERROR, f"the stream's entry is not a metric: {error!r}", _now_ms()
    )


def split(batch: MetricBatch, error: SinkRefused, template: str) -> list[MetricBatch]:
    """Return the parts to commit instead of a batch that the sink refused."""
    if len(batch.metrics) + len(batch.letters) > 1:
        return [
            *(MetricBatch([metric]) for metric in batch.metrics),
            *(MetricBatch([], [letter]) for letter in batch.letters),
        ]
    if not batch.metrics:
        raise SinkBroken(f"the sink refused a dead letter: {error.message}") from error
    metric = batch.metrics[0]
    message = Message(_topic(template, metric._asdict()), _payload(metric))
    return [MetricBatch([], [dead_letter(message, MetricRefusal.SINK_REFUSED, error.message, _now_ms())])]


def _topic(template: str, fields: dict[str, Any]) -> str:
    """Return the topic on which the metric arrived; empty if the entry does not say."""
    try:
        return template.format_map(fields)
    except KeyError:
        return ""


def _payload(metric: Metric) -> bytes:
    """Return the metric as a device publishes it, so that `dead-letters retry` can parse it."""
    tags = msgspec.Raw(metric.tags.encode()) if metric.tags else None
    body = {"value": metric.value, "timestamp": metric.timestamp_ms / 1000, "dedupe_id": metric.dedupe_id, "tags": tags}
    return encode_json({name: value for name, value in body.items() if value is not None})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def order(name: str) -> tuple[int, int]:
    """Return an identifier as numbers that compare in the order of the stream."""
    milliseconds, _, sequence = name.partition("-")
    return int(milliseconds), int(sequence or 0)


def following(name: str) -> str:
    """Return the lowest identifier after this one."""
    milliseconds, sequence = order(name)
    return f"{milliseconds}-{sequence + 1}"
