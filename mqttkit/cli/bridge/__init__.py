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
        "worker": Entry("mqttkit.cli.bridge", "worker", "Move metrics from a Redis stream into a database."),
        "verify": Entry("mqttkit.cli.bridge", "verify", "Prove that nothing is lost with your broker and sink."),
        "tenant": Entry("mqttkit.cli.bridge.store", "tenant", "Manage the tenants that may store metrics."),
        "dead-letters": Entry("mqttkit.cli.bridge.store", "dead_letters", "Manage messages that were refused."),
    },
)
def bridge() -> None:
    """Store metrics from MQTT in a database, stream, file or web service, without losing any.

    Subscribes to metrics/{tenant_id}/{agent_id}/{metric_name}, validates each JSON payload, commits in
    batches, and acknowledges a message only after it is committed.
    """


def bridge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the bridge's settings; `overlay` puts them into the settings."""
    options = [
        click.option("--sink", help="sqlite:PATH, redis://…, postgresql://…, http(s)://… or jsonl:PATH."),
        click.option("--tenants", help="Known tenants: a YAML file, sqlite:PATH or redis://…#SET."),
        click.option("--topic", help="Topic template.  [metrics/{tenant_id}/{agent_id}/{metric_name}]"),
        click.option("--group", help="Share the load with other bridges of this name."),
        click.option("--stream", help="Redis: the stream's name.  [mqttkit:metrics]"),
        click.option("--list", help="Redis: push jobs onto this list instead."),
        click.option("--job", help="Redis list: the job's name.  [StoreMetric]"),
        click.option("--live/--no-live", default=None, help="Redis: publish on metrics:{tenant_id}.  [live]"),
        click.option("--dead-letters", help="HTTP and JSONL: SQLite file for the dead letters."),
        click.option("--token-file", help="HTTP: file with the bearer token in its first line."),
        click.option("--health-port", type=click.IntRange(0, 65_535), help="Serve /livez, /readyz, /metrics."),
        click.option("--health-host", help="Address to serve them on.  [127.0.0.1]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def overlay(settings: Settings, given: dict[str, Any]) -> Settings:
    """Return the settings with the given flags applied."""
    flags = {name: value for name, value in given.items() if value is not None}
    changed: BridgeSettings = replace(settings.bridge, **flags)
    return replace(settings, bridge=changed)


@click.command()
@bridge_options
@connection_options
def run(connection: Connection, **given: Any) -> int:
    """Run the bridge until SIGTERM or Ctrl-C.

    The first signal drains the bridge, a second one ends it immediately. Exit code 0: all received messages
    are committed and acknowledged. 75: memory use reached memory.max.
    """
    from mqttkit.bridge.service import Bridge

    if connection.url_topic is not None:
        raise UsageError("-L must not contain a topic here", hint="Set the topic with --topic")
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
@click.option("--source", required=True, help="Redis with the stream: redis://…, redis+sentinel://…, redis+cluster://…")
@click.option("--sink", help="sqlite:PATH or postgresql://…")
@click.option("--stream", help="The stream's name.  [mqttkit:metrics]")
@click.option("--group", "consumer_group", default="mqttkit", help="Consumer group.  [mqttkit]")
@click.option("--claim-after", type=float, default=60.0, help="Take over a dead worker's entries after seconds.  [60]")
@click.option("--live/--no-live", default=None, help="Publish on metrics:{tenant_id} if no bridge does.  [live]")
@click.option("--config", type=click.Path(), help="Settings file.  [mqttkit.yaml if it exists]")
@click.option("--quiet", is_flag=True, help="Print only the error that ends the command.")
def worker(source: str, consumer_group: str, claim_after: float, config: str | None, quiet: bool, **given: Any) -> int:
    """Read the Redis stream as a consumer group and store its metrics in a database.

    The worker acknowledges committed entries to Redis, and trims entries that every group has read. It takes
    over the entries of a dead worker. SIGTERM ends it after the current batch.
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
@click.option("--publisher", "publisher_name", help="User that may publish metrics, if the bridge's may not.")
@click.option("--publisher-password-file", type=click.Path(), help="File with that user's password in its first line.")
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
    """Prove that nothing is lost: send numbered metrics through your broker, a bridge and your sink.

    The command runs its own bridge and kills it with SIGKILL several times. The metrics use the registry's
    first tenant and an agent named verify-…; they stay in the sink. Exit code 1: metrics were lost or stored twice.
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
