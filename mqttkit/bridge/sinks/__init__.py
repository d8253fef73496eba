"""Sinks store metrics. `open_sink` returns the sink for an address and imports only that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqttkit.bridge.sinks.types import HttpOptions, Sink, SinkOptions
from mqttkit.errors import UsageError
from mqttkit.settings import SinkSettings
from mqttkit.settings.rules import period_seconds

if TYPE_CHECKING:
    from mqttkit.bridge.sinks.remote.ledger_sink import Destination


def sink_options(settings: SinkSettings) -> SinkOptions:
    """Return the sink's part of the settings."""
    http = HttpOptions(
        token_file=settings.token_file,
        headers_file=settings.http_headers_file,
        user=settings.http_username,
        password_file=settings.http_password_file,
        ca_file=settings.http_ca_file,
        cert_file=settings.http_cert_file,
        key_file=settings.http_key_file,
        gzip=settings.http_gzip,
    )
    return SinkOptions(
        stream=settings.stream,
        list_name=settings.list,
        job=settings.job,
        job_format=settings.job_format,
        durability=settings.redis_durability,
        live=settings.live,
        table=settings.table,
        columns=settings.columns,
        hypertable=settings.hypertable,
        keep=period_seconds(settings.keep) if settings.keep is not None else None,
        dedupe_window=settings.dedupe_window,
        dead_letter_limit=settings.dead_letter_limit,
        dead_letter_bytes=settings.dead_letter_bytes,
        dead_letters=settings.dead_letters,
        timeout=settings.sink_timeout,
        password_file=settings.sink_password_file,
        http=http,
    )


def open_sink(address: str, options: SinkOptions) -> Sink:
    """Return the sink for an address such as sqlite:PATH, not opened yet; raise UsageError or MissingPart."""
    scheme, _, rest = address.partition(":")
    only_postgresql = options.keep is not None or options.columns is not None or options.table != SinkOptions.table
    if scheme not in _POSTGRESQL and only_postgresql:
        raise UsageError("--table, --columns and --keep are for PostgreSQL only")
    if options.password_file is not None and scheme not in (*_POSTGRESQL, *_REDIS, *_NATS, *_KAFKA):
        raise UsageError("--sink-password-file is for PostgreSQL, Redis, NATS and Kafka only")
    if not rest:
        raise UsageError(f"{address!r} is not a sink", hint=_KINDS)
    if scheme == "sqlite":
        from mqttkit.bridge.sinks.sqlite import SqliteSink

        return SqliteSink(rest, options)
    if scheme in _REDIS:
        from mqttkit.bridge.sinks.redis import RedisSink

        return RedisSink(address, options)
    if scheme == "jsonl":
        from mqttkit.bridge.sinks.jsonl import JsonlSink

        return JsonlSink(rest, options)
    if scheme in _POSTGRESQL:
        from mqttkit.bridge.sinks.postgresql.sink import PostgresqlSink

        return PostgresqlSink(address, options)
    if scheme in _REMOTE:
        from mqttkit.bridge.sinks.remote.ledger_sink import LedgerSink

        return LedgerSink(open_destination(address, options), options)
    raise UsageError(f"unknown kind of sink {scheme!r}", hint=_KINDS)


def open_destination(address: str, options: SinkOptions) -> Destination:
    """Return the server of a sink with a ledger, not connected yet; raise UsageError or MissingPart."""
    scheme = address.partition(":")[0]
    if scheme in _INFLUX:
        from mqttkit.bridge.sinks.remote.influx import InfluxDestination

        return InfluxDestination(address, options)
    if scheme in _VICTORIA:
        from mqttkit.bridge.sinks.remote.victoria import VictoriaDestination

        return VictoriaDestination(address, options)
    if scheme in _NATS:
        from mqttkit.bridge.sinks.remote.nats import NatsDestination

        return NatsDestination(address, options)
    if scheme in _KAFKA:
        from mqttkit.bridge.sinks.remote.kafka import KafkaDestination

        return KafkaDestination(address, options)
    from mqttkit.bridge.sinks.remote.http import HttpDestination

    return HttpDestination(address, options)


_POSTGRESQL = ("postgresql", "postgres")
_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_INFLUX = ("influx", "influxs")
_VICTORIA = ("victoria", "victorias")
_NATS = ("nats", "natss")
_KAFKA = ("kafka", "kafkas")
_REMOTE = ("http", "https", *_INFLUX, *_VICTORIA, *_NATS, *_KAFKA)
_KINDS = (
    "Sinks: sqlite:PATH, redis://…, postgresql://…, influx://…, victoria://…, nats://…, kafka://…, http://…, jsonl:PATH"
)
