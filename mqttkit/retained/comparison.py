"""Compare two sets of retained messages. Memory: about 150 bytes for each topic, for payloads of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mqttkit.messages import Message, Properties


@dataclass(frozen=True)
class Difference:
    """A topic on which the two sets differ."""

    topic: str
    kind: str
    """`missing` (only in the first set), `added` (only in the second) or `changed`."""


def digest(message: Message) -> bytes:
    """Return a digest of payload, QoS and properties.

    A broker counts the message expiry interval down and adds subscription identifiers: neither is part of the
    message's content.
    """
    properties = message.properties
    if properties is not None:
        properties = replace(properties, message_expiry_interval=None, subscription_identifiers=(), topic_alias=None)
    shown = "" if properties in (None, Properties()) else repr(properties)
    head = f"{message.qos} {len(message.payload)} {shown}\n".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(head + message.payload, digest_size=16).digest()


def digests(messages: Iterable[Message]) -> dict[str, bytes]:
    """Return the digest of each topic's message."""
    return {message.topic: digest(message) for message in messages}


def differences(first: dict[str, bytes], second: Iterable[Message]) -> Iterator[Difference]:
    """Yield how the second set differs from the digests of the first one, which is used up."""
    for message in second:
        before = first.pop(message.topic, None)
        if before is None:
            yield Difference(message.topic, "added")
        elif before != digest(message):
            yield Difference(message.topic, "changed")
    for topic in first:
        yield Difference(topic, "missing")
