"""The settings of a network controller. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mqttkit.settings.rules import (
    LISTEN_ADDRESS,
    TOPIC_NAME,
    Checked,
    Duration,
    Seconds,
    between,
    some_of,
    starts_with,
    topic_level,
)


@dataclass(frozen=True, kw_only=True)
class ControllerSettings(Checked):
    """A network controller: its identity, how its messages travel, what it trusts."""

    id: Annotated[str | None, topic_level("controller id")] = None
    """Controller identifier, one topic level: sender_id, and the MQTT client identifier."""
    region: Annotated[str, topic_level("region")] = "zone-A"
    """Region that it belongs to, one topic level."""
    base: Annotated[str, TOPIC_NAME] = "pdsno"
    """First level or levels of all its topics."""
    transports: Annotated[tuple[str, ...], some_of("mqtt", "http", "memory")] = ("mqtt", "http", "memory")
    """Transports for messages, the best one first; one without an address is skipped."""
    http_url: Annotated[str | None, starts_with("http://host:port", "http://", "https://")] = None
    """Where another controller serves HTTP, such as http://10.0.0.2:8088."""
    http_listen: Annotated[str | None, LISTEN_ADDRESS] = None
    """`host:port` on which this controller serves HTTP for others; port 0 picks a free port."""
    poll_interval: Seconds = 1.0
    """Seconds between polls of `http_url`."""
    key_file: str | None = None
    """Key ring; $XDG_STATE_HOME/mqttkit/controllers/keys.json if it is not set."""
    unsigned: bool = False
    """Neither sign nor verify: only if the broker's access rules are enough."""
    state_file: str | None = None
    """SQLite file with the state that survives a restart; default: next to the key ring, named by id."""
    heartbeat_interval: Seconds = 10.0
    """Seconds between heartbeats."""
    clock_skew: Duration = 300.0
    """Seconds by which a sender's clock may differ, in either direction."""
    max_message_bytes: Annotated[int, between(1, 64 * 1024 * 1024)] = 256 * 1024
    """Largest message that it accepts, bytes."""
    keep_session: bool = True
    """Let the broker keep the session for a day while the controller is offline, so that no report is lost."""
    policy_qos: Annotated[int, between(1, 2)] = 1
    """QoS of the policies that it publishes and receives: 1, or 2 to deliver each exactly once per connection."""
    handler_retries: Annotated[int, between(0, 100)] = 2
    """How often to call a failed handler again before the message becomes a dead letter."""
