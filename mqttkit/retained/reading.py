"""Read retained messages from a broker or from a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mqttkit.errors import UsageError
from mqttkit.messages import Message, Subscription
from mqttkit.recorder.recording import Recording
from mqttkit.settings import MqttSettings
from mqttkit.subscriber import ReadOptions, Subscriber


def read_broker(settings: MqttSettings, topic_filters: Sequence[str]) -> Iterator[Message]:
    """Yield the retained messages that match the topic filters, then end.

    Memory is bounded: a slow reader slows the broker down. A topic that two filters match may come twice. Raises the
    errors of `Subscriber`.
    """
    for topic_filter in topic_filters:
        if topic_filter.startswith("$share/"):
            raise UsageError(f"{topic_filter!r}: a shared subscription receives no retained messages (MQTT 5, 4.8.2)")
    client = replace(settings.client, client_id=None, clean_session=True, receive_maximum=65_535)
    subscriptions = [Subscription(each, 2, retain_as_published=True) for each in topic_filters]
    with Subscriber(replace(settings, client=client), subscriptions, retry=False) as subscriber:
        for batch in subscriber.batches(ReadOptions(retained_only=True)):
            yield from batch.messages


def read_snapshot(path: Path) -> Iterator[Message]:
    """Yield the messages of a snapshot; raise RecordingError if it is not one."""
    with Recording(path) as recording:
        for recorded in recording.retained():
            yield recorded.message
