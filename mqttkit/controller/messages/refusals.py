"""Why a controller refuses a message: one reason each, so that each can be counted."""

from __future__ import annotations

import enum

from mqttkit.errors import MqttkitError


class Reason(enum.Enum):
    """The reasons; the value is the word in counters, logs and `status`."""

    TOO_LARGE = "too_large"
    """Larger than the limit; not parsed at all."""
    MALFORMED = "malformed"
    """No signed message, no JSON, or an envelope with a field missing or of a wrong type."""
    UNKNOWN_KEY = "unknown_key"
    """Signed with a key that the key ring does not hold."""
    RETIRED_KEY = "retired_key"
    """Signed with a key that is retired."""
    BAD_SIGNATURE = "bad_signature"
    """The bytes were changed, or another key signed them."""
    WRONG_TOPIC = "wrong_topic"
    """Signed for another topic: a replay across topics."""
    EXPIRED = "expired"
    """Older than the clock skew allows, or a policy past its end."""
    SKEWED = "skewed"
    """From further in the future than the clock skew allows."""
    REPLAYED = "replayed"
    """The very same bytes were published again; QoS 1 redelivery is told apart by its DUP flag."""
    CONFLICT = "conflict"
    """A message_id, a nonce or a policy version that was seen before with other content: an attack."""
    UNKNOWN_VERSION = "unknown_version"
    """A schema_version that this program does not speak."""
    UNKNOWN_TYPE = "unknown_type"
    """A message_type that nothing here handles, or that does not belong on the topic."""
    WRONG_REGION = "wrong_region"
    """The envelope's region is not the topic's, or not this controller's."""
    WRONG_SENDER = "wrong_sender"
    """The sender_id is not the topic's, or the key belongs to another sender."""
    STALE = "stale"
    """A policy older than the one in force."""


class MessageRefused(MqttkitError):
    """A message that is not acted upon: `reason` is what is counted."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
