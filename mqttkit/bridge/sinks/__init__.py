"""Sinks store metrics. `open_sink` returns the sink for an address and imports only that one."""

from __future__ import annotations

from pathlib import Path

from mqttkit.bridge.sinks.types import Sink, SinkOptions
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings


def sink_options(settings: BridgeSettings) -> SinkOptions:
    """Return the sink's part of the settings."""
    token = None
    if settings.token_file is not None:
        try:
            token = Path(settings.token_file).read_text("utf-8").splitlines()[0].strip()
        except (OSError, IndexError) as error:
            raise UsageError(f"cannot read the token in {settings.token_file}: {error}") from error
    return SinkOptions(
        stream=settings.stream,
        list_name=settings.list,
        job=settings.job,
        live=settings.live,
        dedupe_window=settings.dedupe_window,
        dead_letter_limit=settings.dead_letter_limit,
        dead_letters=settings.dead_letters,
        timeout=settings.sink_timeout,
        token=token,
    )


def open_sink(address: str, options: SinkOptions) -> Sink:
    """Return the sink for an address such as sqlite:PATH, not opened yet; raise UsageError or MissingPart."""
    scheme, _, rest = address.partition(":")
    if not rest:
        raise UsageError(f"{address!r} is not a sink", hint=_KINDS)
    if scheme == "sqlite":
        from mqttkit.bridge.sinks.sqlite import SqliteSink

        return SqliteSink(rest, options)
    if scheme in ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster"):
        from mqttkit.bridge.sinks.redis import RedisSink

        return RedisSink(address, options)
    if scheme in ("http", "https"):
        from mqttkit.bridge.sinks.http import HttpSink

        return HttpSink(address, options)
    if scheme == "jsonl":
        from mqttkit.bridge.sinks.jsonl import JsonlSink

        return JsonlSink(rest, options)
    if scheme in ("postgresql", "postgres"):
        from mqttkit.bridge.sinks.postgresql import PostgresqlSink

        return PostgresqlSink(address, options)
    raise UsageError(f"unknown kind of sink {scheme!r}", hint=_KINDS)


_KINDS = "Sinks: sqlite:PATH, redis://…, postgresql://…, http(s)://…, jsonl:PATH"
