"""`mqttkit demo`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SOME_SECONDS
from mqttkit.errors import Interrupted, MqttkitError

if TYPE_CHECKING:
    from mqttkit.demo import Demo


@click.command(cls=GroupedCommand)
@click.option("--seconds", type=SOME_SECONDS, default=15.0, help="How long to run.  [15]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "docker", "process", "embedded"]),
    default="auto",
    help="Broker to start: in Docker, the installed mosquitto, or embedded.  [auto: the first available]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, and nothing else.")
@click.option("-d", "--debug", is_flag=True, help="Log everything on stderr.")
def demo(*, seconds: float, backend: str, as_json: bool, debug: bool) -> None:
    """Replay real Bluetooth advertisements from a scanner through a broker to a subscriber, and count them.

    Starts a temporary broker on a free loopback port. Ends with 0 only if no advertisement was lost.

    \b
    mqttkit demo
    """
    from mqttkit.broker import temporary_broker
    from mqttkit.cli.output.render import print_json
    from mqttkit.cli.signals import interrupts_raise, on_interrupt
    from mqttkit.demo import Demo

    set_up_logging(quiet=not debug, debug=debug)
    with interrupts_raise(), temporary_broker(backend) as profile:
        if not as_json:
            click.echo(f"broker: {profile.backend} on {profile.host}:{profile.port}; replaying real advertisements")
        demonstration = Demo(profile, seconds=seconds)
        started, interrupted = time.monotonic(), False
        with on_interrupt(demonstration.stop):
            _show(demonstration, silent=as_json)
            interrupted = time.monotonic() - started < seconds
        report = demonstration.report()
    if as_json:
        print_json({**asdict(report), "lost": report.lost})
    else:
        click.echo("\n".join(report.lines()))
    if report.lost or not (report.received or interrupted):
        raise MqttkitError(f"{report.lost} advertisements did not reach the subscriber")
    if interrupted:
        raise Interrupted("interrupted")


def _show(demonstration: Demo, *, silent: bool) -> None:
    """Show a live table on a terminal, otherwise a line per second; nothing if `silent`."""
    if silent:
        for _ in demonstration.batches():
            pass
        return
    if sys.stdout.isatty():
        from mqttkit.cli.scan.live_table import show_table

        show_table(demonstration.batches())
        return
    started = reported = time.monotonic()
    devices: set[str] = set()
    for batch in demonstration.batches():
        devices.update(advertisement.mac_address for advertisement in batch)
        if (now := time.monotonic()) - reported >= 1:
            reported = now
            published, received = demonstration.progress()
            click.echo(f"{now - started:4.0f} s  {len(devices)} devices  {published} published  {received} received")
