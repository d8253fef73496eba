"""`mqttkit bridge verify`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from mqttkit.cli.bridge.options import one_sink_bridge_options
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SECONDS, Number


@click.command(cls=GroupedCommand, default_qos="")
@click.option("--count", type=COUNT, default=100_000, help="Metrics to publish.  [100000]")
@click.option(
    "--kill", "kills", type=Number("N", low=0, whole=True), default=8, help="How often to kill the bridge.  [8]"
)
@click.option("--publisher", metavar="NAME", help="User that may publish metrics, if the bridge's user may not.")
@click.option("--publisher-password-file", metavar="FILE", type=click.Path(), help="File with that user's password.")
@click.option("--time-limit", type=SECONDS, default=600.0, help="Time for the whole proof.  [600]")
@click.option("--in-place", is_flag=True, help="Store in the sink itself, and leave the metrics there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@one_sink_bridge_options
@connection_options
def verify(connection: ConnectionOptions, *, as_json: bool, **given: Any) -> int:
    """Prove on this set-up that no metric is lost: send numbered metrics through broker, bridge and sink.

    The proof starts a separate bridge and kills it with SIGKILL again and again. It stores its metrics under its
    own tenant in its own file, table, stream or list beside yours, and removes it afterwards; consumers of yours
    may run. With --in-place the metrics belong to the registry's first tenant and stay in the sink. Exit code 1:
    metrics were lost, or stored twice.

    \b
    mqttkit bridge verify --count 100000 --kill 8 --sink sqlite:metrics.db --tenants tenants.yaml
    """
    from mqttkit.bridge.outputs.plan import chosen_sink
    from mqttkit.bridge.verification.proof import Proof, ProofSettings
    from mqttkit.cli.output.progress import progress
    from mqttkit.cli.output.render import print_json

    settings = connection.settings
    chosen = dataclasses.replace(settings, bridge=chosen_sink(settings.bridge))
    proof = Proof(ProofSettings(settings=chosen, **given))
    with progress(lambda: proof.published / given["count"], what="killing the bridge again and again"):
        result = proof.run()
    if as_json:
        print_json({**dataclasses.asdict(result), "lost": result.lost})
    else:
        click.echo(result.line())
    return 0 if result.passed else 1
