"""`mqttkit bridge worker`."""

from __future__ import annotations

import click

from mqttkit.cli.bridge.options import health_options, password_option, sink_option, stream_option
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.numbers import SECONDS
from mqttkit.cli.options.setting_option import setting_option
from mqttkit.cli.signals import drain_on_signal


@click.command(cls=GroupedCommand)
@click.option(
    "--source",
    required=True,
    metavar="URL",
    help="Server of the stream: redis://…, redis+sentinel://…, redis+cluster://…",
)
@click.option(
    "--source-password-file",
    metavar="FILE",
    type=click.Path(),
    help="Read that server's password from the first line of FILE for each new connection.",
)
@sink_option
@password_option
@stream_option
@click.option("--group", default="mqttkit", metavar="NAME", help="Consumer group.  [mqttkit]")
@click.option("--claim-after", type=SECONDS, default=60.0, help="Take over a dead worker's entries after this.  [60]")
@setting_option(
    "--live/--no-live",
    path="bridge.live",
    default=None,
    help="Publish on metrics:{tenant_id} if no bridge does.  [live]",
)
@health_options
@config_option
@click.option("--quiet", is_flag=True, help="Print nothing on stderr except a final error.")
def worker(
    source: str, source_password_file: str | None, group: str, claim_after: float, config: str | None, quiet: bool
) -> int:
    """Read the Redis stream as a consumer group and upsert its metrics into a database.

    Entries are acknowledged to Redis once they are committed, and trimmed once every group has read them.
    Another worker takes over the entries of a worker that died. SIGTERM ends it after the current batch.

    \b
    mqttkit bridge worker --source redis://localhost --sink sqlite:metrics.db
    """
    from mqttkit.bridge.outputs.plan import chosen_sink
    from mqttkit.bridge.worker.stream_worker import StreamWorker, WorkerSettings

    set_up_logging(quiet=quiet)
    settings = chosen_sink(load_without_broker(config).bridge)
    service = StreamWorker(
        WorkerSettings(
            source=source,
            source_password_file=source_password_file,
            group=group,
            claim_after=claim_after,
            bridge=settings,
        )
    )
    drain_on_signal(service.stop)
    return service.run()
