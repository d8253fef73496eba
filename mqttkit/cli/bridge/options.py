"""Options of the bridge's commands. All are settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mqttkit.cli.options.loading import config_option
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.options.setting_option import Command, add_options, file_option, setting_option
from mqttkit.errors import UsageError


def _setting(name: str, metavar: str, help_text: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return the option for the setting of the same name. FILE as `metavar` takes a path; a/b is a pair of flags."""
    path = "bridge." + name.partition("/")[0].removeprefix("--").replace("-", "_")
    if metavar == "FILE":
        return file_option(name, path=path, help=help_text)
    if "/" in name:
        return setting_option(name, path=path, default=None, help=help_text)
    return setting_option(name, path=path, metavar=metavar or None, help=help_text, **attributes)


def _one_sink(addresses: list[str]) -> dict[str, object]:
    if len(addresses) > 1:
        raise UsageError(f"--sink is given {len(addresses)} times, and this command works on one sink")
    return {"bridge.sink": addresses[0]}


def _each_sink(addresses: list[str]) -> dict[str, object]:
    """Return the settings of one sink, or of an output for each of several."""
    return {"bridge.outputs": [{"sink": one} for one in addresses]} if len(addresses) > 1 else _one_sink(addresses)


_SINKS = "sqlite:PATH, redis://…, postgresql://…, influx://…, victoria://…, nats://…, kafka://…, http://… or jsonl:PATH"
sink_option = setting_option("--sink", expand=_one_sink, multiple=True, metavar="SINK", help=f"{_SINKS}.")
_sinks_option = setting_option(
    "--sink", expand=_each_sink, multiple=True, metavar="SINK", help=f"{_SINKS}; may be given several times."
)
password_option = _setting(
    "--sink-password-file",
    "FILE",
    "PostgreSQL, Redis, NATS, Kafka: read the password from the first line of FILE for each new connection.",
)
stream_option = _setting("--stream", "NAME", "Redis: name of the stream.  [mqttkit:metrics]")
_SHARED = (
    password_option,
    _setting("--tenants", "REGISTRY", "Known tenants: a YAML file, sqlite:PATH or redis://…#SET."),
    _setting("--topic", "TEMPLATE", "Topic template.  [metrics/{tenant_id}/{agent_id}/{metric_name}]"),
    _setting("--mapping", "EXPRESSION", "JMESPath expression that turns a payload into metrics."),
    setting_option(
        "--sparkplug/--no-sparkplug",
        path="bridge.sparkplug.enabled",
        default=None,
        help="Read Sparkplug B on spBv1.0/# as well.  [no]",
    ),
    stream_option,
    _setting("--list", "NAME", "Redis: push jobs onto this list instead."),
    _setting("--table", "NAME", "PostgreSQL: table of the metrics.  [metrics]"),
    _setting(
        "--columns",
        "FIELD=COLUMN,…",
        "PostgreSQL: names of its columns, if they differ; tags=- and received_ms=- leave a field out.",
    ),
    _setting(
        "--hypertable/--no-hypertable",
        "",
        "PostgreSQL: create the table as a hypertable if TimescaleDB is there.  [hypertable]",
    ),
    _setting("--keep", "PERIOD", "PostgreSQL: remove metrics that are older, such as 30d."),
    _setting("--dead-letters", "FILE", "SQLite file for the ledger: all sinks but SQLite, PostgreSQL and Redis."),
    _setting("--job", "NAME", "Redis list: name of the job.  [StoreMetric]"),
    _setting(
        "--job-format",
        "FORMAT",
        "Redis list: mqttkit, laravel, rq, celery, sidekiq, or file:PATH of a template.  [mqttkit]",
    ),
    _setting(
        "--redis-durability",
        "",
        "Redis: a batch is stored when the server, a replica, or the disk has it.  [server]",
        type=click.Choice(["server", "replica", "fsync"]),
    ),
    _setting("--token-file", "FILE", "HTTP: read the bearer token from the first line of FILE."),
    _setting("--http-headers-file", "FILE", "HTTP: read further headers from FILE, one `Name: value` per line."),
    _setting("--http-username", "NAME", "HTTP: user for basic authentication."),
    _setting("--http-password-file", "FILE", "HTTP: read that user's password from the first line of FILE."),
    _setting("--http-ca-file", "FILE", "HTTP: PEM file with the authorities to trust."),
    _setting("--http-cert-file", "FILE", "HTTP: PEM file with the client certificate."),
    _setting("--http-key-file", "FILE", "HTTP: PEM file with its private key."),
    _setting("--http-gzip/--no-http-gzip", "", "HTTP: compress the body.  [no]"),
)
_HEALTH = (
    _setting(
        "--health-port",
        "",
        "Serve /livez, /readyz and /metrics on this port; 0 picks a free one.",
        type=Number("PORT", low=0, high=65_535, whole=True),
    ),
    _setting("--health-host", "ADDRESS", "Address to serve them on.  [127.0.0.1]"),
)
_RUNNING = (
    _setting("--group", "NAME", "Share the load with bridges of this name."),
    _setting(
        "--leave-on-stop/--stay",
        "",
        "At SIGTERM commit what the broker has queued and end the session.  [stay]",
    ),
    _setting("--live/--no-live", "", "Redis: publish on metrics:{tenant_id}.  [live]"),
    *_HEALTH,
)


def bridge_options(command: Command) -> Command:
    """Add the options of a bridge that runs."""
    return add_options(command, (_sinks_option, *_SHARED, *_RUNNING))


def one_sink_bridge_options(command: Command) -> Command:
    """Add the same options to a command that works on one sink."""
    return add_options(command, (sink_option, *_SHARED, *_RUNNING))


def health_options(command: Command) -> Command:
    """Add the options of the health endpoints."""
    return add_options(command, _HEALTH)


def store_options(command: Command) -> Command:
    """Add the options that name sink and registry; the command gets `config`."""
    return add_options(command, (sink_option, *_SHARED, config_option))
