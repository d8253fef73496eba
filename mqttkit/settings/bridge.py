"""The settings of the bridge: how metrics get from MQTT into a sink. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from mqttkit.settings.rules import (
    METRIC_COLUMNS,
    PERIOD,
    SPARKPLUG_GROUPS,
    TABLE_NAME,
    Checked,
    Count,
    Duration,
    Seconds,
    at_least,
    between,
    is_uuid,
    one_of,
    template,
    topic_level,
)

METRIC_TOPIC = template("tenant_id", "agent_id", "metric_name")


@dataclass(frozen=True, kw_only=True)
class MemorySettings(Checked):
    """How much resident memory the bridge may use."""

    warn: Count = 200_000_000
    """Bytes above which it logs a warning."""
    max: Annotated[int | None, at_least(1)] = None
    """Bytes above which it drains and ends with exit code 75, so that it is restarted; null: no limit."""


@dataclass(frozen=True, kw_only=True)
class SparkplugSettings(Checked):
    """Whether the bridge also reads Sparkplug B."""

    enabled: bool = False
    """Subscribe to spBv1.0/# as well, and store the metrics of births and data."""
    groups: Annotated[tuple[str, ...], SPARKPLUG_GROUPS] = ()
    """GROUP=TENANT for each group whose identifier is not the tenant's UUID."""
    rebirth: bool = False
    """Ask a node for its births (NCMD Node Control/Rebirth) if they are missing, at most once a minute."""
    memory: Count = 50_000_000
    """Bytes of names and aliases in memory, about 300 a metric; above it the longest silent node is forgotten."""

    def tenants(self) -> Callable[[str], str | None]:
        """Return a function that gives the tenant of a group, or None."""
        named = {group: tenant.lower() for group, _, tenant in (pair.rpartition("=") for pair in self.groups)}
        return lambda group: named.get(group) or (group.lower() if is_uuid(group) else None)


@dataclass(frozen=True, kw_only=True)
class SinkSettings(Checked):
    """A sink and its options."""

    sink: str | None = field(default=None, repr=False)
    """sqlite:PATH, redis://…, postgresql://…, influx://…, victoria://…, nats://…, kafka://…, http://… or jsonl:PATH."""
    sink_password_file: str | None = None
    """PostgreSQL, Redis, NATS, Kafka: file whose first line is the password; read again for each new connection."""
    stream: str = "mqttkit:metrics"
    """Redis: name of the stream."""
    list: str | None = None
    """Redis: push jobs onto this list instead."""
    job: str = "StoreMetric"
    """Redis list: name of the job."""
    job_format: str = "mqttkit"
    """Redis list: form of the jobs: mqttkit, laravel, rq, celery, sidekiq, or file:PATH of a JSON template."""
    redis_durability: Annotated[str, one_of("server", "replica", "fsync")] = "server"
    """Redis: when a batch is stored: as appendfsync says, once a replica has it, or once it is on disk (Redis 7.2)."""
    table: Annotated[str, TABLE_NAME] = "metrics"
    """PostgreSQL: table of the metrics."""
    columns: Annotated[str | None, METRIC_COLUMNS] = None
    """PostgreSQL: names of its columns, such as timestamp_ms=time,value=reading; tags=- leaves a field out."""
    hypertable: bool = True
    """PostgreSQL: create the table as a hypertable if TimescaleDB is there."""
    keep: Annotated[str | None, PERIOD] = None
    """PostgreSQL: remove metrics whose time stamp is older, such as 30d."""
    live: bool = True
    """Redis: publish stored metrics on the channel metrics:{tenant_id}."""
    dedupe_window: Count = 86_400
    """Seconds for which Redis, hypertables and ledgers remember a dedupe_id."""
    dead_letter_bytes: Annotated[int | None, at_least(1)] = None
    """Bytes of dead letters at which the bridge acknowledges nothing; if it is not set, 10 GB, and 1 GB in Redis."""
    dead_letter_limit: Annotated[int, at_least(0)] = 0
    """Dead letters at which the bridge acknowledges nothing; the last batch may exceed it. 0: any number."""
    dead_letters: str | None = None
    """SQLite file for the ledger, with the dead letters: all sinks but SQLite, PostgreSQL and Redis."""
    sink_timeout: Seconds = 5.0
    """Seconds that one commit may take at the sink's server."""
    token_file: str | None = None
    """HTTP sink: file whose first line is the bearer token."""
    http_headers_file: str | None = None
    """HTTP sink: file with further headers, one `Name: value` per line."""
    http_username: str | None = None
    """HTTP sink: user for basic authentication."""
    http_password_file: str | None = None
    """HTTP sink: file whose first line is that user's password."""
    http_ca_file: str | None = None
    """HTTP sink: PEM file with the authorities to trust, instead of the system's."""
    http_cert_file: str | None = None
    """HTTP sink: PEM file with the client certificate."""
    http_key_file: str | None = None
    """HTTP sink: PEM file with its private key."""
    http_gzip: bool = False
    """HTTP sink: compress the body."""


@dataclass(frozen=True, kw_only=True)
class OutputSettings(SinkSettings):
    """One of several sinks, with its options and its share of the metrics."""

    name: Annotated[str | None, topic_level("output")] = None
    """Name in logs and metrics, and of its session; the sink's scheme if it is not set."""
    only_tenants: tuple[str, ...] = ()
    """Store metrics of these tenants; all if it is empty."""
    only_metrics: tuple[str, ...] = ()
    """Store metrics of these names, in which * matches any text; all if it is empty."""


@dataclass(frozen=True, kw_only=True)
class BridgeSettings(SinkSettings):
    """How metrics get from MQTT into one sink, or into several outputs."""

    outputs: tuple[OutputSettings, ...] = field(default=(), repr=False)
    """Several sinks, in place of `sink`; then `sink` chooses one of them by name or address."""
    topic: Annotated[str, METRIC_TOPIC] = "metrics/{tenant_id}/{agent_id}/{metric_name}"
    """Topic template; each placeholder is a whole level."""
    mapping: str | None = None
    """JMESPath expression that turns a payload into metrics; if it is not set, each payload is a metric."""
    sparkplug: SparkplugSettings = field(default_factory=SparkplugSettings)
    tenants: str | None = field(default=None, repr=False)
    """Known tenants: a YAML file, sqlite:PATH, or redis://…#SET."""
    group: Annotated[str | None, topic_level("group")] = None
    """Share the load with other bridges of this name ($share/NAME/…; MQTT 5, 4.8.2)."""
    batch_size: Count = 500
    """Maximum number of messages in one commit; half the Receive Maximum if that is less."""
    batch_window: Duration = 0.05
    """Seconds that a message may wait for others under load; without load it does not wait."""
    queue_size: Count = 10_000
    """Messages received and not yet in a batch."""
    payload_limit: Count = 65_536
    """Bytes; a longer payload is a dead letter."""
    dead_letter_quota: Annotated[int, at_least(0)] = 100_000
    """Dead letters of one tenant in a day above which the bridge warns, or drops further ones. 0: any number."""
    dead_letter_overflow: Annotated[str, one_of("keep", "drop")] = "keep"
    """What happens to letters above the quota: they are kept, or acknowledged and counted without being kept."""
    health_host: str = "127.0.0.1"
    """Address on which to serve /livez, /readyz and /metrics."""
    health_port: Annotated[int | None, between(0, 65_535)] = None
    """Their TCP port; not served if it is not set."""
    leave_on_stop: bool = False
    """End the session at SIGTERM: unsubscribe, and commit what the broker has queued for this bridge."""
    drain_timeout: Seconds = 5.0
    """Seconds to commit received messages after SIGTERM."""
    stats_interval: Seconds = 60.0
    """Seconds between log lines with counters."""
    check_interval: Seconds = 60.0
    """Seconds between checks that the broker still grants the subscription."""
    skew_limit: Seconds = 300.0
    """Seconds between a metric's time stamp and its arrival above which the bridge reports the clocks."""
    memory: MemorySettings = field(default_factory=MemorySettings)
