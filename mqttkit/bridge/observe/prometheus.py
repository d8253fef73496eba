"""The bridge's counters as Prometheus samples, in base units. No label grows with the data."""

from __future__ import annotations

from collections.abc import Mapping

from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.observe.health import Sample
from mqttkit.bridge.session import SessionWatch
from mqttkit.client import MqttClient


def samples_of(
    pipeline: Pipeline, client: MqttClient, session: SessionWatch, *, ready: bool, resident: int
) -> list[Sample]:
    """Return every sample; `resident` in bytes."""
    return [
        *book_samples(pipeline.books),
        Sample(
            "dropped_letters",
            "Dead letters dropped above the quota of their tenant",
            "counter",
            pipeline.letter_quota.dropped,
        ),
        *_sparkplug(pipeline.parser_counts()),
        Sample("lost_sessions", "Connections whose session the broker had lost", "counter", session.lost),
        Sample("interruptions", "Connections that ended while the bridge ran", "counter", session.interruptions),
        Sample("delay_seconds", "Time from reception to commit", "histogram", 0.0, histogram=pipeline.delay),
        Sample("commit_duration_seconds", "Duration of a commit", "histogram", 0.0, histogram=pipeline.commit_duration),
        *_state(pipeline, client, ready=ready, resident=resident),
    ]


_SPARKPLUG = {
    "births": "Births of Sparkplug nodes and devices",
    "deaths": "Their deaths",
    "stale_deaths": "Deaths of a node that belong to an earlier connection, and were ignored",
    "gaps": "Times that messages of a Sparkplug node were missing",
    "unknown_aliases": "Sparkplug values that no valid birth names",
    "null_values": "Sparkplug values that are null, and not stored",
    "redelivered": "Sparkplug messages that the broker delivered again",
    "ignored": "Commands, STATE and retained messages of Sparkplug",
    "dropped_nodes": "Sparkplug nodes forgotten because the memory was full",
    "rebirth_requests": "Requests to Sparkplug nodes to publish their births again",
}


def _sparkplug(counts: Mapping[str, int]) -> list[Sample]:
    if not counts:
        return []
    return [Sample(f"sparkplug_{name}", text, "counter", counts.get(name, 0)) for name, text in _SPARKPLUG.items()]


def book_samples(books: Books) -> list[Sample]:
    """Return the counters of the books."""
    balance = books.balance()
    counters = [
        ("received_messages", "Messages received from the broker", balance.received + books.returned + books.put_aside),
        ("returned_messages", "Queued messages dropped at a reconnect; the broker sends them again", books.returned),
        ("put_aside_messages", "Messages of mqttkit itself, of other outputs, and empty ones", books.put_aside),
        ("stored_metrics", "Metrics committed", balance.stored),
        ("duplicate_metrics", "Metrics whose dedupe_id was stored before", balance.duplicate),
        ("acknowledged_messages", "Metrics and dead letters acknowledged to the broker", books.acknowledged),
        ("stale_acknowledgements", "Acknowledgements not sent because their connection had ended", books.stale),
        ("overflows", "Times that the broker sent more than the queue holds", books.overflows),
        ("turned_away_messages", "Messages not queued and not acknowledged", books.turned_away),
        ("lost_qos0_messages", "QoS 0 messages lost because the queue was full", books.lost_qos0),
        ("batches", "Committed batches", books.batches),
        ("commit_retries", "Commits that failed and were tried again", books.retries),
        ("commit_seconds", "Time spent in commits", books.commit_seconds),
        ("handler_errors", "Unexpected exceptions", books.handler_errors),
    ]
    samples = [Sample(name, text, "counter", value) for name, text, value in counters]
    reasons = sorted(books.reasons.items())
    text = "Messages that are not metrics, by reason"
    samples += [Sample("dead_letters", text, "counter", count, ("reason", why)) for why, count in reasons]
    samples.append(Sample("in_flight_messages", "Received and not committed yet", "gauge", balance.in_flight))
    samples.append(Sample("books_difference", "Messages unaccounted for; always 0", "gauge", balance.difference))
    return samples


def _state(pipeline: Pipeline, client: MqttClient, *, ready: bool, resident: int) -> list[Sample]:
    return [
        Sample("connects", "Accepted connections", "counter", client.stats.connects),
        Sample("connected", "1 while connected to the broker", "gauge", float(client.connected)),
        Sample("ready", "1 while metrics can flow", "gauge", float(ready)),
        Sample("queue_fill_ratio", "How full the queue is, 0 to 1", "gauge", pipeline.intake.fill),
        Sample("clock_skew_seconds", "Receipt minus time stamp in the last batch", "gauge", pipeline.skew_ms / 1000),
        Sample("resident_memory_bytes", "Resident memory", "gauge", resident),
    ]
