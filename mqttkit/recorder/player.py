"""Play a recording back as it was: each message leaves at its time, and what happened to it is reported.

The schedule is absolute: message i leaves at `start + offset_i / speed`, so that lateness does not add up.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mqttkit.client import MqttClient
from mqttkit.errors import UsageError
from mqttkit.messages import Message
from mqttkit.publisher import Publisher
from mqttkit.recorder.editing import retained_state
from mqttkit.recorder.lines import Recorded
from mqttkit.recorder.recording import Recording
from mqttkit.stop import Stop
from mqttkit.topics import check_topic_name, matches

EARLY_SECONDS = 0.0005
"""Messages that are due this soon are sent together."""
BLOCK = 1_000
"""Messages handed to the client together."""
SHORTEST = 1e-6
"""Seconds below which lateness is not told apart."""
BUCKET = 0.02
"""Width of a bucket: natural logarithm of seconds."""
RECHECK_SECONDS = 0.5
FINISH_SECONDS = 30.0
"""How long the last acknowledgements may take."""


@dataclass(frozen=True)
class TopicMap:
    """A renaming of topics: `site/(.*)=test/$1`."""

    pattern: re.Pattern[str]
    """Matches a whole topic name."""
    replacement: str

    @classmethod
    def parse(cls, text: str) -> TopicMap:
        """Return the map of PATTERN=REPLACEMENT, in which $1 to $9 are groups; raise UsageError."""
        pattern, equals, replacement = text.partition("=")
        if not equals or not pattern or not replacement:
            raise UsageError(f"{text!r} is not PATTERN=REPLACEMENT", hint="For example: --map 'site/(.*)=test/$1'")
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
        groups = [int(number) for number in re.findall(r"\$(\d)", replacement)]
        if max(groups, default=0) > compiled.groups:
            raise UsageError(f"{replacement!r} uses ${max(groups)}, but {pattern!r} has {compiled.groups} groups")
        return cls(compiled, re.sub(r"\$(\d)", r"\\g<\1>", replacement.replace("\\", "\\\\")))

    def apply(self, topic: str) -> str | None:
        """Return the new name, or None if the pattern does not match."""
        found = self.pattern.fullmatch(topic)
        return None if found is None else found.expand(self.replacement)


@dataclass(frozen=True, kw_only=True)
class PlayerOptions:
    """What is played, and how fast."""

    speed: float | None = 1.0
    """Times the recorded pace; None plays as fast as the broker accepts."""
    start_seconds: float = 0.0
    """Skip everything before this offset. The retained state of that moment is restored first."""
    end_seconds: float | None = None
    """Stop at this offset."""
    loops: int = 1
    """How often to play; 0 plays until stopped."""
    include: tuple[str, ...] = ()
    """Play only topics that match one of these filters."""
    exclude: tuple[str, ...] = ()
    """Do not play topics that match one of these filters."""
    maps: tuple[TopicMap, ...] = ()
    """Renamings; the first one that matches counts."""
    restore_retained: bool = True
    """Publish the retained state of the starting point first."""
    qos: int | None = None
    """QoS for every message, instead of the recorded one."""
    pause_on_disconnect: bool = False
    """While there is no connection the schedule stands still; otherwise late messages follow in a burst."""


class Lateness:
    """How late messages left, in buckets of 2 %: memory stays bounded."""

    def __init__(self) -> None:
        self.maximum = 0.0
        """Seconds."""
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float, messages: int) -> None:
        """Count messages that left so many seconds after their time."""
        self.maximum = max(self.maximum, seconds)
        self._buckets[math.ceil(math.log(max(seconds, SHORTEST)) / BUCKET)] += messages

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of the messages did not exceed."""
        left = share * self._buckets.total()
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(math.exp(bucket * BUCKET), self.maximum)
        return self.maximum


@dataclass
class PlayReport:
    """What was played."""

    sent: int = 0
    """Messages played, the restored retained state not included."""
    restored: int = 0
    """Retained messages published before the first message."""
    delivered: int = 0
    """Messages acknowledged, or sent at QoS 0, the restored ones included."""
    failed: int = 0
    """Messages denied, dropped or lost."""
    seconds: float = 0.0
    lateness: Lateness = field(default_factory=Lateness)
    """How late messages left."""


class Player:
    """Plays recordings over a connected client. One thread."""

    def __init__(self, client: MqttClient, options: PlayerOptions) -> None:
        self._client = client
        self._options = options
        self._names: dict[str, str | None] = {}
        self._publisher = Publisher(client)
        self.report = PlayReport()
        self.on_sent: Callable[[Sequence[Message]], None] | None = None
        """Gets each block of messages before it is published."""

    def play(self, paths: Sequence[Path], stop: Stop) -> PlayReport:
        """Play the files one after the other, as often as the options say.

        Raises PublishFailed if the broker denies a message, RecordingError for a damaged file, and the client's error
        if the connection ended for good.
        """
        started = time.monotonic()
        played = 0
        try:
            while not stop.is_set and (self._options.loops == 0 or played < self._options.loops):
                self._play_once(paths, stop)
                played += 1
            self._publisher.finish(FINISH_SECONDS)
        finally:
            self.report.delivered, self.report.failed = self._publisher.delivered, self._publisher.failed
            self.report.seconds = time.monotonic() - started
        return self.report

    def _play_once(self, paths: Sequence[Path], stop: Stop) -> None:
        options = self._options
        with Recording(paths[0]) as recording:
            origin = recording.header.monotonic_ns + int(options.start_seconds * 1e9)
            if options.restore_retained:
                self._restore(recording, origin)
        end = None if options.end_seconds is None else origin + int((options.end_seconds - options.start_seconds) * 1e9)
        schedule = _Schedule(origin, options.speed, stop, self.report.lateness)
        for path in paths:
            with Recording(path) as recording:
                for block in schedule.blocks(self._played(recording, origin, end)):
                    if options.pause_on_disconnect and not self._client.connected:
                        schedule.shift(self._wait_for_connection(stop))
                    self._send([recorded.message for recorded in block])
                    self.report.sent += len(block)

    def _wait_for_connection(self, stop: Stop) -> float:
        """Wait until the client is connected or has given up, and return the seconds that it took."""
        begin = time.monotonic()
        while not (stop.is_set or self._client.given_up or self._client.wait_connected(RECHECK_SECONDS)):
            continue
        return time.monotonic() - begin

    def topics(self, paths: Sequence[Path]) -> list[str]:
        """Return the names of all topics that would be played, renamed."""
        names = set[str]()
        for path in paths:
            with Recording(path) as recording:
                for recorded in (*recording.retained(), *recording.messages()):
                    message = self._rename(recorded.message)
                    if message is not None:
                        names.add(message.topic)
        return sorted(names)

    def _restore(self, recording: Recording, origin: int) -> None:
        """Publish the retained state of the starting point."""
        state = retained_state(recording, origin).values()
        messages = [message for each in state if (message := self._rename(each.message)) is not None]
        self._send(messages)
        self.report.restored += len(messages)

    def _send(self, messages: list[Message]) -> None:
        if self.on_sent is not None:
            self.on_sent(messages)
        self._publisher.send(messages)

    def _played(self, recording: Recording, origin: int, end: int | None) -> Iterator[Recorded]:
        for recorded in recording.messages(origin if self._options.start_seconds else None):
            if end is not None and recorded.monotonic_ns >= end:
                return
            message = self._rename(recorded.message)
            if message is not None:
                yield recorded._replace(message=message)

    def _rename(self, message: Message) -> Message | None:
        """Return the message as it is played, or None if it is not."""
        if message.topic not in self._names:
            if len(self._names) > 100_000:
                self._names.clear()
            self._names[message.topic] = self._new_name(message.topic)
        topic = self._names[message.topic]
        if topic is None:
            return None
        qos = message.qos if self._options.qos is None else self._options.qos
        return message._replace(topic=topic, qos=qos, dup=False)

    def _new_name(self, topic: str) -> str | None:
        options = self._options
        if options.include and not any(matches(each, topic) for each in options.include):
            return None
        if any(matches(each, topic) for each in options.exclude):
            return None
        for each in options.maps:
            name = each.apply(topic)
            if name is not None:
                return check_topic_name(name)
        return topic


class _Schedule:
    """Groups messages into blocks and waits until each block is due."""

    def __init__(self, origin: int, speed: float | None, stop: Stop, lateness: Lateness) -> None:
        self._origin = origin
        self._speed = speed
        self._stop = stop
        self._start = time.monotonic()
        self._lateness = lateness

    def blocks(self, messages: Iterator[Recorded]) -> Iterator[list[Recorded]]:
        """Yield the messages in blocks, each when it is due; end if the stop is set."""
        block: list[Recorded] = []
        first = limit = 0.0
        for recorded in messages:
            due = self._due(recorded)
            if block and (due > limit or len(block) >= BLOCK):
                if not self._wait(first, len(block)):
                    return
                yield block
                block = []
            if not block:
                first, limit = due, max(due, time.monotonic()) + EARLY_SECONDS
            block.append(recorded)
        if block and self._wait(first, len(block)):
            yield block

    def shift(self, seconds: float) -> None:
        """Move everything that is still to come to a later time."""
        self._start += seconds

    def _due(self, recorded: Recorded) -> float:
        if self._speed is None:
            return self._start
        return self._start + (recorded.monotonic_ns - self._origin) / 1e9 / self._speed

    def _wait(self, due: float, messages: int) -> bool:
        """Wait until it is due; return False if the stop is set."""
        left = due - time.monotonic()
        if left > 0 and self._stop.wait(left):
            return False
        if self._speed is not None:
            self._lateness.add(max(time.monotonic() - due, 0.0), messages)
        return not self._stop.is_set
