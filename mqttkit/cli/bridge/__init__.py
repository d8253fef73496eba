"""`mqttkit bridge`: metrics from MQTT into a sink."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import click

from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.cli.options import Connection, connection_options, load, set_up_logging
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings, Settings

INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    entries={
        "run": Entry("mqttkit.cli.bridge", "run", "Run the bridge until it is stopped."),
        "worker": Entry("mqttkit.cli.bridge", "worker", "Move metrics on, from a Redis stream into a database."),
        "verify": Entry("mqttkit.cli.bridge", "verify", "Prove on this set-up that nothing is lost."),
        "tenant": Entry("mqttkit.cli.bridge.store", "tenant", "Say who may store metrics."),
        "dead-letters": Entry("mqttkit.cli.bridge.store", "dead_letters", "Look after messages that were refused."),
    },
)
def bridge() -> None:
    """Move metrics from MQTT into a sink: nothing lost, everything accounted for.

    Subscribes to metrics/{tenant_id}/{agent_id}/{metric_name}, checks each JSON payload, commits in
    batches, and acknowledges only what is committed.
    """


def bridge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where metrics go; `overlay` puts them into the settings."""
    options = [
        click.option("--sink", help="sqlite:PATH, redis://…, postgresql://…, http(s)://… or jsonl:PATH."),
        click.option("--tenants", help="Known tenants: a YAML file, sqlite:PATH or redis://…#SET."),
        click.option("--topic", help="Topic template.  [metrics/{tenant_id}/{agent_id}/{metric_name}]"),
        click.option("--group", help="Share the load with other bridges of this name."),
        click.option("--stream", help="Redis: the stream's name.  [mqttkit:metrics]"),
        click.option("--list", help="Redis: push jobs onto this list instead."),
        click.option("--job", help="Redis list: the job's name.  [StoreMetric]"),
        click.option("--live/--no-live", default=None, help="Redis: publish on metrics:{tenant_id}.  [live]"),
        click.option("--dead-letters", help="SQLite file for the dead letters of http and jsonl."),
        click.option("--token-file", help="HTTP: file whose first line is the bearer token."),
        click.option("--health-port", type=click.IntRange(0, 65_535), help="Serve /livez, /readyz, /metrics."),
        click.option("--health-host", help="Address to serve them on.  [127.0.0.1]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def overlay(settings: Settings, given: dict[str, Any]) -> Settings:
    """Lay flags that were given over the settings."""
    flags = {name: value for name, value in given.items() if value is not None}
    changed: BridgeSettings = replace(settings.bridge, **flags)
    return replace(settings, bridge=changed)


@click.command()
@bridge_options
@connection_options
def run(connection: Connection, **given: Any) -> int:
    """Run the bridge until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.

    Exit code 0: all that was taken is committed and acknowledged. 75: memory.max was reached.
    """
    from mqttkit.bridge.service import Bridge

    if connection.url_topic is not None:
        raise UsageError("-L names the broker only", hint="The topics are those of --topic")
    service = Bridge(overlay(connection.settings, given), retry=connection.retry, will=connection.will)
    on_signals(service.stop)
    return service.run()


def on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; end the process at the second."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: os._exit(INTERRUPTED))
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@click.command()
@click.option("--source", required=True, help="Where the stream is: redis://…, redis+sentinel://…, redis+cluster://…")
@click.option("--sink", help="sqlite:PATH or postgresql://…")
@click.option("--stream", help="The stream's name.  [mqttkit:metrics]")
@click.option("--group", "consumer_group", default="mqttkit", help="Consumer group.  [mqttkit]")
@click.option("--claim-after", type=float, default=60.0, help="Seconds until a dead worker's entries are taken.  [60]")
@click.option("--live/--no-live", default=None, help="Publish on metrics:{tenant_id} where no bridge does.  [live]")
@click.option("--config", type=click.Path(), help="Settings file.  [mqttkit.yaml where there is one]")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr but the error that ends the command.")
def worker(source: str, consumer_group: str, claim_after: float, config: str | None, quiet: bool, **given: Any) -> int:
    """Read the Redis stream as a consumer group and upsert its metrics into a database.

    Entries are acknowledged to Redis when they are committed, and trimmed when every group has read them.
    What a worker that died had taken is claimed by another one. SIGTERM ends it after the batch at hand.
    """
    from mqttkit.bridge.stream_worker import StreamWorker, WorkerSettings

    set_up_logging(quiet=quiet)
    settings = overlay(load(config, {}), given).bridge
    service = StreamWorker(
        WorkerSettings(source=source, group=consumer_group, claim_after=claim_after, bridge=settings)
    )
    on_signals(service.stop)
    return service.run()


@click.command()
@click.option("--count", type=click.IntRange(1), default=100_000, help="Metrics to publish.  [100000]")
@click.option("--kill", "kills", type=click.IntRange(0), default=8, help="Times to kill the bridge.  [8]")
@click.option("--publisher", "publisher_name", help="User that may publish metrics, where the bridge's may not.")
@click.option("--publisher-password-file", type=click.Path(), help="File whose first line is that user's password.")
@click.option("--time-limit", type=float, default=600.0, help="Seconds for the whole proof.  [600]")
@bridge_options
@connection_options
def verify(
    count: int,
    kills: int,
    publisher_name: str | None,
    publisher_password_file: str | None,
    time_limit: float,
    connection: Connection,
    **given: Any,
) -> int:
    """Prove on this set-up that nothing is lost: numbered metrics through broker, bridge and sink.

    A bridge of its own is run and killed with SIGKILL again and again. The metrics bear the registry's first
    tenant and an agent named verify-…; they stay in the sink. Exit code 1: some were lost, or stored twice.
    """
    from mqttkit.bridge.verify import Proof, ProofSettings

    settings = ProofSettings(
        settings=overlay(connection.settings, given),
        count=count,
        kills=kills,
        publisher=publisher_name,
        publisher_password_file=publisher_password_file,
        time_limit=time_limit,
    )
    result = Proof(settings).run()
    click.echo(result.line())
    return 0 if result.passed else 1
