"""What a user can do from the live view: publish, remove retained messages, undo it; and the same as commands."""

from __future__ import annotations

import itertools
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mqttkit.client import MqttClient
from mqttkit.errors import PublishFailed
from mqttkit.messages import Message, Outcome
from mqttkit.settings import MqttSettings

if TYPE_CHECKING:
    from mqttkit.retained.changing import Change

PUBLISH_SECONDS = 10.0
"""How long a publish may wait for its acknowledgement."""
PREVIEW = 200
"""Topics that a preview names."""


@dataclass(frozen=True)
class Removal:
    """Retained messages that were saved and can be removed or restored."""

    topic_filter: str
    snapshot: Path
    count: int
    """Retained messages in the snapshot."""
    preview: tuple[Message, ...]
    """The first of them."""


class RetainedMessages:
    """Removes retained messages with undo, for as long as the context is open: it keeps the snapshots."""

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._directory = tempfile.TemporaryDirectory(prefix="mqttkit-top-")
        self._numbers = itertools.count(1)
        self.removed: list[Removal] = []
        """What can be undone, the latest last."""

    def __enter__(self) -> RetainedMessages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def prepare(self, topic_filter: str) -> Removal:
        """Save the retained messages that match; blocks. Raises the client's errors."""
        from mqttkit.retained.changing import save_snapshot
        from mqttkit.retained.reading import read_snapshot

        path = Path(self._directory.name) / f"retained-{next(self._numbers)}.jsonl.zst"
        count = save_snapshot(self._settings, [topic_filter], path, (time.time_ns(), time.monotonic_ns()))
        return Removal(topic_filter, path, count, tuple(itertools.islice(read_snapshot(path), PREVIEW)))

    def remove(self, removal: Removal) -> Change:
        """Remove what was saved; blocks. Messages that changed since then stay."""
        from mqttkit.retained.changing import remove

        self.removed.append(removal)
        return remove(self._settings, removal.snapshot, [removal.topic_filter])

    def undo(self) -> Change:
        """Restore what was removed last; blocks. Raises IndexError if there is nothing to undo."""
        from mqttkit.retained.changing import restore

        removal = self.removed[-1]
        change = restore(self._settings, removal.snapshot)
        self.removed.pop()
        return change


def publish(client: MqttClient, message: Message) -> None:
    """Publish a message and wait for the acknowledgement; raise PublishFailed if the broker did not take it."""
    receipt = client.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
    outcome = receipt.wait(PUBLISH_SECONDS)
    if outcome not in (Outcome.SENT, Outcome.ACKNOWLEDGED):
        reason = receipt.reason or "no acknowledgement"
        raise PublishFailed(f"cannot publish on {message.topic!r}: {reason}")


def connection_words(settings: MqttSettings) -> list[str]:
    """Return the options that connect a command to the same broker. They never contain a password."""
    broker = settings.broker
    host, port = broker.addresses()[0]
    words: list[str] = []
    if broker.unix_socket is not None:
        words += ["--unix", broker.unix_socket]
    elif host not in ("localhost", "127.0.0.1"):
        words += ["-h", host]
    if port and port != (8883 if broker.tls else 1883):
        words += ["-p", str(port)]
    if broker.tls is not None:
        words += ["--cafile", broker.tls.ca_file] if broker.tls.ca_file else ["--tls"]
    return words + (["-u", broker.username] if broker.username else [])


def publish_command(message: Message, connection: Sequence[str]) -> str:
    """Return the command that publishes the same message."""
    flags = ["-r"] if message.retain else []
    text = message.payload.decode("utf-8", "surrogateescape")
    payload = ["-m", text] if text else ["-n"]
    return _command("pub", *connection, "-q", str(message.qos), *flags, *payload, message.topic)


def subscribe_command(topic_filter: str, connection: Sequence[str]) -> str:
    """Return the command that prints the same messages."""
    return _command("sub", *connection, "-v", topic_filter)


def remove_command(topic_filter: str, connection: Sequence[str]) -> str:
    """Return the command that removes the same retained messages, after a snapshot and a question."""
    return _command("retained", "prune", *connection, topic_filter)


def restore_command(connection: Sequence[str]) -> str:
    """Return the command that restores retained messages from the snapshot of `retained prune`."""
    return _command("retained", "restore", *connection) + " SNAPSHOT"


def _command(*words: str) -> str:
    return "mqttkit " + shlex.join(words)
