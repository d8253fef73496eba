"""Remove and restore retained messages, and prove it by reading the broker again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mqttkit.addresses import show_address
from mqttkit.client import MqttClient, Receipt
from mqttkit.client.control import round_trip
from mqttkit.messages import Message, Outcome
from mqttkit.recorder.editing import write_recording
from mqttkit.recorder.lines import Header, Recorded
from mqttkit.recorder.recording import Recording
from mqttkit.retained.comparison import digest, digests
from mqttkit.retained.reading import read_broker, read_snapshot
from mqttkit.settings import MqttSettings
from mqttkit.topics import matches

FINISH_SECONDS = 60.0
"""How long the broker may take for everything that was sent."""
SHOWN = 20
"""Topics that a report names."""
OPEN = 5_000
"""Publishes under way at a time."""
MAX_REASONS = 10_000
"""Denied topics whose reason is kept."""


@dataclass
class Change:
    """What a change did."""

    done: int = 0
    """Messages removed or restored: the broker was read again as a proof."""
    unchanged: int = 0
    """Messages that were on the broker already."""
    refused: int = 0
    """Topics on which the broker has not done what was asked."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The first 20 of these topics, and why."""

    def refuse(self, topic: str, reason: str) -> None:
        """Count a topic."""
        self.refused += 1
        if len(self.reasons) < SHOWN:
            self.reasons[topic] = reason


def save_snapshot(settings: MqttSettings, topic_filters: Sequence[str], path: Path, started_ns: tuple[int, int]) -> int:
    """Write the retained messages into a new file; return how many there are.

    The file is a recording without live messages. `started_ns` is now on the wall clock and on the monotonic clock.
    """
    wall, monotonic = started_ns
    header = Header(wall, monotonic, show_address(*settings.broker.addresses()[0]), 5, tuple(topic_filters), 2)
    count = 0

    def messages() -> Iterator[Recorded]:
        nonlocal count
        for message in read_broker(settings, topic_filters):
            count += 1
            yield Recorded(message, wall, monotonic)

    write_recording(path, header, messages(), iter(()))
    return count


def remove(settings: MqttSettings, path: Path, topic_filters: Sequence[str]) -> Change:
    """Remove from the broker every message of a snapshot, then read the broker again as a proof.

    A topic whose message has changed since the snapshot stays, and is reported. Raises the client's errors.
    """
    change = Change()
    wanted = digests(read_snapshot(path))
    for message in read_broker(settings, topic_filters):
        if message.topic in wanted and wanted[message.topic] != digest(message):
            del wanted[message.topic]
            change.refuse(message.topic, "it has changed since the snapshot")
    _publish(settings, (Message(topic, b"", 0, retain=True) for topic in wanted))
    remaining = [message.topic for message in read_broker(settings, topic_filters) if message.topic in wanted]
    change.done = len(wanted) - len(remaining)
    if remaining:  # QoS 1 says why
        reasons = _publish(settings, (Message(topic, b"", 1, retain=True) for topic in remaining))
        still = {message.topic for message in read_broker(settings, topic_filters)}
        for topic in remaining:
            if topic in still:
                change.refuse(topic, reasons.get(topic, "the broker still has it"))
        change.done += len(set(remaining) - still)
    return change


def restore(settings: MqttSettings, path: Path, topic_filters: Sequence[str] = ()) -> Change:
    """Publish the messages of a snapshot that the broker does not have, then read the broker again as a proof.

    Only topics that match one of the filters, if there are any. Raises the client's errors.
    """
    change = Change()
    with Recording(path) as snapshot:
        places = snapshot.header.subscriptions
    wanted = digests(_matching(read_snapshot(path), topic_filters))
    present = _equal(read_broker(settings, places), wanted)
    change.unchanged = len(present)
    missing = (message for message in _matching(read_snapshot(path), topic_filters) if message.topic not in present)
    reasons = _publish(settings, missing)
    found = _equal(read_broker(settings, places), wanted)
    change.done = len(found - present)
    for topic in wanted:
        if topic not in found:
            change.refuse(topic, reasons.get(topic, "the broker does not have it"))
    return change


def _equal(messages: Iterable[Message], wanted: dict[str, bytes]) -> set[str]:
    """Return the topics whose message is as wanted."""
    return {message.topic for message in messages if wanted.get(message.topic) == digest(message)}


def _matching(messages: Iterable[Message], topic_filters: Sequence[str]) -> Iterator[Message]:
    for message in messages:
        if not topic_filters or any(matches(each, message.topic) for each in topic_filters):
            yield message


def _publish(settings: MqttSettings, messages: Iterable[Message]) -> dict[str, str]:
    """Publish the messages and wait for the answers; return the topics that were denied, and why."""
    denied: dict[str, str] = {}
    client_settings = replace(settings.client, client_id=None, clean_session=True)
    with MqttClient(replace(settings, client=client_settings)) as client:
        client.connect()
        receipts: deque[tuple[str, Receipt]] = deque()
        for message in messages:
            receipt = client.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=True,
                properties=message.properties,
                wait=FINISH_SECONDS,
            )
            receipts.append((message.topic, receipt))
            while receipts and (len(receipts) > OPEN or receipts[0][1].outcome is not None):
                _settle(*receipts.popleft(), denied)
        while receipts:
            _settle(*receipts.popleft(), denied)
        round_trip(client, FINISH_SECONDS)
    return denied


def _settle(topic: str, receipt: Receipt, denied: dict[str, str]) -> None:
    outcome = receipt.wait(FINISH_SECONDS)
    if outcome not in (Outcome.SENT, Outcome.ACKNOWLEDGED) and len(denied) < MAX_REASONS:
        denied[topic] = receipt.reason.lower() if receipt.reason else "no acknowledgement"
