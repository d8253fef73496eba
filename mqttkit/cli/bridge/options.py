"""Options of the bridge's commands. All are settings."""

from __future__ import annotations

import click

from mqttkit.cli.options.loading import config_option
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.options.setting_option import Command, add_options, setting_option

sink_option = setting_option(
    "--sink",
    path="bridge.sink",
    metavar="SINK",
    help="sqlite:PATH, redis://…, postgresql://…, influx://…, victoria://…, http(s)://… or jsonl:PATH.",
)
password_option = setting_option(
    "--sink-password-file",
    path="bridge.sink_password_file",
    metavar="FILE",
    type=click.Path(),
    help="PostgreSQL, Redis: read the password from the first line of FILE for each new connection.",
)
stream_option = setting_option(
    "--stream", path="bridge.stream", metavar="NAME", help="Redis: name of the stream.  [mqttkit:metrics]"
)
_SHARED = (
    sink_option,
    password_option,
    setting_option(
        "--tenants", path="bridge.tenants", metavar="REGISTRY",
        help="Known tenants: a YAML file, sqlite:PATH or redis://…#SET.",
    ),
    setting_option(
        "--topic", path="bridge.topic", metavar="TEMPLATE",
        help="Topic template.  [metrics/{tenant_id}/{agent_id}/{metric_name}]",
    ),
    stream_option,
    setting_option("--list", path="bridge.list", metavar="NAME", help="Redis: push jobs onto this list instead."),
    setting_option(
        "--table", path="bridge.table", metavar="NAME", help="PostgreSQL: table of the metrics.  [metrics]"
    ),
    setting_option(
        "--columns", path="bridge.columns", metavar="FIELD=COLUMN,…",
        help="PostgreSQL: names of its columns, if they differ; tags=- and received_ms=- leave a field out.",
    ),
    setting_option(
        "--hypertable/--no-hypertable", path="bridge.hypertable", default=None,
        help="PostgreSQL: create the table as a hypertable if TimescaleDB is there.  [hypertable]",
    ),
    setting_option(
        "--keep", path="bridge.keep", metavar="PERIOD", help="PostgreSQL: remove metrics that are older, such as 30d."
    ),
    setting_option(
        "--dead-letters", path="bridge.dead_letters", metavar="FILE", type=click.Path(),
        help="HTTP and JSONL: SQLite file for the dead letters.",
    ),
    setting_option("--job", path="bridge.job", metavar="NAME", help="Redis list: name of the job.  [StoreMetric]"),
    setting_option(
        "--job-format", path="bridge.job_format", metavar="FORMAT",
        help="Redis list: mqttkit, laravel, rq, celery, sidekiq, or file:PATH of a template.  [mqttkit]",
    ),
    setting_option(
        "--redis-durability", path="bridge.redis_durability", type=click.Choice(["server", "replica", "fsync"]),
        help="Redis: a batch is stored when the server, a replica, or the disk has it.  [server]",
    ),
    setting_option(
        "--token-file", path="bridge.token_file", metavar="FILE", type=click.Path(),
        help="HTTP: read the bearer token from the first line of FILE.",
    ),
    setting_option(
        "--http-headers-file", path="bridge.http_headers_file", metavar="FILE", type=click.Path(),
        help="HTTP: read further headers from FILE, one `Name: value` per line.",
    ),
    setting_option(
        "--http-username", path="bridge.http_username", metavar="NAME", help="HTTP: user for basic authentication."
    ),
    setting_option(
        "--http-password-file", path="bridge.http_password_file", metavar="FILE", type=click.Path(),
        help="HTTP: read that user's password from the first line of FILE.",
    ),
    setting_option(
        "--http-ca-file", path="bridge.http_ca_file", metavar="FILE", type=click.Path(),
        help="HTTP: PEM file with the authorities to trust.",
    ),
    setting_option(
        "--http-cert-file", path="bridge.http_cert_file", metavar="FILE", type=click.Path(),
        help="HTTP: PEM file with the client certificate.",
    ),
    setting_option(
        "--http-key-file", path="bridge.http_key_file", metavar="FILE", type=click.Path(),
        help="HTTP: PEM file with its private key.",
    ),
    setting_option(
        "--http-gzip/--no-http-gzip", path="bridge.http_gzip", default=None, help="HTTP: compress the body.  [no]"
    ),
)  # fmt: skip
_HEALTH = (
    setting_option(
        "--health-port", path="bridge.health_port", type=Number("PORT", low=0, high=65_535, whole=True),
        help="Serve /livez, /readyz and /metrics on this port; 0 picks a free one.",
    ),
    setting_option(
        "--health-host", path="bridge.health_host", metavar="ADDRESS", help="Address to serve them on.  [127.0.0.1]"
    ),
)  # fmt: skip
_RUNNING = (
    setting_option("--group", path="bridge.group", metavar="NAME", help="Share the load with bridges of this name."),
    setting_option(
        "--leave-on-stop/--stay", path="bridge.leave_on_stop", default=None,
        help="At SIGTERM commit what the broker has queued and end the session.  [stay]",
    ),
    setting_option(
        "--live/--no-live", path="bridge.live", default=None, help="Redis: publish on metrics:{tenant_id}.  [live]"
    ),
    *_HEALTH,
)  # fmt: skip


def bridge_options(command: Command) -> Command:
    """Add the options of a bridge that runs."""
    return add_options(command, (*_SHARED, *_RUNNING))


def health_options(command: Command) -> Command:
    """Add the options of the health endpoints."""
    return add_options(command, _HEALTH)


def store_options(command: Command) -> Command:
    """Add the options that name sink and registry; the command gets `config`."""
    return add_options(command, (*_SHARED, config_option))
