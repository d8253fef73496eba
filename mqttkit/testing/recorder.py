"""Everything that went over a broker, and questions about it: `assert recorder.saw("a/b", json={"x": 1}, within=2)`."""

from __future__ import annotations

import json as json_module
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Subscription
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_topic_filter, matches

MAX_MESSAGES = 100_000
"""Messages kept; beyond that the oldest ones are dropped and counted."""
SHOWN = 5
"""Messages that a failure shows."""
_ANY: Any = object()


@dataclass(frozen=True)
class Sighting:
    """The answer to a question: true or false, with a text that explains it."""

    seen: bool
    text: str
    messages: tuple[Message, ...] = ()
    """The messages that matched."""

    def __bool__(self) -> bool:
        return self.seen

    def __repr__(self) -> str:
        return f"<{'seen' if self.seen else 'not seen'}: {self.text}>"


class MessageRecorder:
    """Records the messages that are published from now on. A context manager: entering connects and subscribes.

    Retained messages of before are not recorded. Any thread may ask.

    Entering raises BrokerUnreachable, ConnectionRefused or SubscriptionDenied.
    """

    def __init__(self, settings: MqttSettings, topic_filter: str = "#") -> None:
        self.dropped = 0
        """Messages that are no longer kept."""
        self._filter = check_topic_filter(topic_filter)
        self._messages: deque[Message] = deque(maxlen=MAX_MESSAGES)
        self._arrived = threading.Condition()
        self._client = MqttClient(settings, on_messages=self._record)

    def __enter__(self) -> MessageRecorder:
        try:
            self._client.connect()
            self._client.subscribe(Subscription(self._filter, 2, retain_as_published=True, retain_handling=2))
        except BaseException:
            self._client.close(flush=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(flush=0.0)

    def __iter__(self) -> Iterator[Message]:
        with self._arrived:
            return iter(list(self._messages))

    def __len__(self) -> int:
        return len(self._messages)

    def clear(self) -> None:
        """Forget everything recorded so far."""
        with self._arrived:
            self._messages.clear()

    def saw(
        self,
        topic_filter: str,
        payload: bytes | str = _ANY,
        *,
        json: Any = _ANY,
        count: int = 1,
        within: float = 2.0,
    ) -> Sighting:
        """Wait up to `within` seconds until `count` messages match, and return whether they do.

        `payload` is compared exactly, text as UTF-8; `json` is compared with the decoded payload. Earlier messages
        count.
        """
        check_topic_filter(topic_filter)
        wanted = payload.encode() if isinstance(payload, str) else payload
        what = f" with payload {payload!r}" * (payload is not _ANY) + f" with JSON {json!r}" * (json is not _ANY)
        deadline = time.monotonic() + within
        with self._arrived:
            while True:
                found = [each for each in self._messages if _fits(each, topic_filter, wanted, json)]
                left = deadline - time.monotonic()
                if len(found) >= count or left <= 0:
                    break
                self._arrived.wait(left)
            near = [each for each in self._messages if matches(topic_filter, each.topic)]
        seen = len(found) >= count
        text = f"{len(found)} of {count} messages on {topic_filter!r}{what} within {within:g} s"
        return Sighting(seen, text if seen else f"{text}; {_instead(near)}", tuple(found))

    def saw_nothing(self, topic_filter: str, *, within: float = 0.5) -> Sighting:
        """Wait `within` seconds and return whether no message matched, earlier ones included."""
        sighting = self.saw(topic_filter, within=within)
        text = f"messages on {topic_filter!r}: {[each.payload for each in sighting.messages[:SHOWN]]}"
        return Sighting(not sighting, "none" if not sighting else text, sighting.messages)

    def _record(self, messages: list[Message]) -> None:
        with self._arrived:
            self.dropped += max(len(self._messages) + len(messages) - MAX_MESSAGES, 0)
            self._messages.extend(messages)
            self._arrived.notify_all()


def _fits(message: Message, topic_filter: str, payload: Any, json: Any) -> bool:
    if not matches(topic_filter, message.topic) or (payload is not _ANY and message.payload != payload):
        return False
    if json is _ANY:
        return True
    try:
        found = json_module.loads(message.payload)
    except (ValueError, RecursionError):
        return False
    return bool(found == json)


def _instead(near: list[Message]) -> str:
    if not near:
        return "no message on that topic"
    shown = ", ".join(f"{each.topic} {each.payload[:80]!r}" for each in near[-SHOWN:])
    return f"{len(near)} messages on that topic, the last ones: {shown}"
