"""The reasons why a controller refuses a message. Each reason has its own counter."""

from __future__ import annotations

import enum

from mqttkit.errors import MqttkitError


class MessageRefusal(enum.Enum):
    """The reasons; the value is the word in counters, logs and `status`."""

    TOO_LARGE = "too_large"
    """Larger than the limit; not parsed at all."""
    MALFORMED = "malformed"
    """Not a signed message, not JSON, or an envelope in which a field is missing or has the wrong type."""
    UNKNOWN_KEY = "unknown_key"
    """Signed with a key that is not in the key ring."""
    RETIRED_KEY = "retired_key"
    """Signed with a key that is retired."""
    BAD_SIGNATURE = "bad_signature"
    """The bytes were changed, or another key signed them."""
    WRONG_TOPIC = "wrong_topic"
    """Signed for a different topic: a replay across topics."""
    EXPIRED = "expired"
    """Older than the clock skew allows, or a policy that has expired."""
    SKEWED = "skewed"
    """Further in the future than the clock skew allows."""
    REPLAYED = "replayed"
    """The same bytes were published again. A redelivery at QoS 1 has the DUP flag and is not a replay."""
    CONFLICT = "conflict"
    """A known message_id, nonce or policy version with different content: an attack."""
    UNKNOWN_VERSION = "unknown_version"
    """A schema_version that this program does not understand."""
    UNKNOWN_TYPE = "unknown_type"
    """An unknown message_type, or one that does not belong on the topic."""
    WRONG_REGION = "wrong_region"
    """The region of the envelope differs from the region of the topic."""
    WRONG_SENDER = "wrong_sender"
    """The sender_id differs from the topic's, or the key belongs to another sender."""
    NOT_ALLOWED = "not_allowed"
    """The role or the region of the key does not allow the message."""
    STALE = "stale"
    """A policy older than the one in force."""


class MessageRefused(MqttkitError):
    """A controller refuses a message; `reason` names the counter."""

    def __init__(self, reason: MessageRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
