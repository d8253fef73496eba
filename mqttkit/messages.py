"""Messages, wills, subscriptions, properties and the outcomes of publishes. Immutable."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from mqttkit.topics import check_topic_name


@dataclass(frozen=True)
class Properties:
    """The MQTT 5 properties of a PUBLISH that the application sees (MQTT 5, 3.3.2.3)."""

    payload_format_indicator: int | None = None
    """0 unspecified bytes, 1 UTF-8."""
    message_expiry_interval: int | None = None
    """Seconds."""
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    """In the order sent; a name may come twice."""
    subscription_identifiers: tuple[int, ...] = ()
    """Identifiers of the subscriptions that the message matched; only in received messages."""
    topic_alias: int | None = None
    """Sent with the topic name if the broker takes it; received messages have none."""


class Message(NamedTuple):
    """One application message, received or to be sent (MQTT 5, 3.3)."""

    topic: str
    """Topic name. Bytes that are not UTF-8 are kept as lone surrogates: see `topic_bytes`."""
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    mid: int = 0
    """Packet identifier of this delivery, 0 at QoS 0."""
    properties: Properties | None = None
    epoch: int = 0
    """Number of the connection it came on, counted from 1: a packet identifier is valid only on its own connection."""

    @property
    def text(self) -> str:
        """The payload as text. Bytes that are not UTF-8 become U+FFFD; `payload` has them unchanged."""
        return self.payload.decode("utf-8", "replace")

    @property
    def topic_bytes(self) -> bytes:
        """The topic name exactly as it was on the wire."""
        return self.topic.encode("utf-8", "surrogateescape")

    @property
    def topic_is_valid(self) -> bool:
        """False if the topic name was not UTF-8 or has a NUL (MQTT 5, 1.5.4)."""
        return (self.topic.isascii() and "\0" not in self.topic) or _is_utf8(self.topic)


def _is_utf8(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Will:
    """The message that the broker publishes if the client disappears without DISCONNECT (MQTT 5, 3.1.2.5)."""

    topic: str
    payload: bytes | str = b""
    """Text is sent as UTF-8."""
    qos: int = 0
    retain: bool = False
    delay_interval: int = 0
    """Seconds that the broker waits before it publishes; MQTT 5 only."""
    properties: Properties | None = None
    """Properties of the message that the broker publishes; MQTT 5 only."""

    def __post_init__(self) -> None:
        """Raise TopicError for a malformed topic name and ValueError for a QoS that does not exist."""
        check_topic_name(self.topic)
        if self.qos not in (0, 1, 2):
            raise ValueError(f"QoS must be 0, 1 or 2, got {self.qos!r}")


@dataclass(frozen=True)
class Subscription:
    """One topic filter and its options (MQTT 5, 3.8.3.1)."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    """Retained messages: 0 send them, 1 only for a new subscription, 2 never; MQTT 5 only."""


class Outcome(enum.Enum):
    """The result of a publish."""

    ACKNOWLEDGED = "acknowledged"
    """The broker sent PUBACK or PUBCOMP with a reason code below 128."""
    SENT = "sent"
    """QoS 0: the operating system has the whole packet. MQTT has no acknowledgement at QoS 0."""
    DENIED = "denied"
    """The broker sent PUBACK or PUBREC with a reason code of 128 or above."""
    DROPPED = "dropped"
    """Never sent: the client was not connected, or its queue was full."""
    LOST = "lost"
    """The connection ended before the acknowledgement, and the broker kept no session."""
