"""`mqttkit demo`: the main job in fifteen seconds, with nothing set up before."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from mqttkit.cli.options import set_up_logging
from mqttkit.errors import Interrupted, MqttkitError

if TYPE_CHECKING:
    from mqttkit.demo import Demo


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=15.0, help="How long.  [15]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "docker", "process", "embedded"]),
    default="auto",
    help="Which broker: Docker Engine, native mosquitto, embedded.  [auto: the first of these that is there]",
)
@click.option("-d", "--debug", is_flag=True, help="Say everything on stderr.")
def demo(*, seconds: float, backend: str, debug: bool) -> None:
    """Replay real Bluetooth advertisements from scanner over a broker to a subscriber, and count them.

    Starts a broker of its own on a free loopback port and ends it again. Ends with 0 only if nothing was lost.
    """
    from mqttkit.broker import temporary_broker
    from mqttkit.cli.signals import interrupts_raise, on_interrupt
    from mqttkit.demo import Demo

    set_up_logging(quiet=not debug, debug=debug)
    with interrupts_raise(), temporary_broker(backend) as profile:
        click.echo(f"broker: {profile.backend} on {profile.host}:{profile.port}; replaying real advertisements")
        demonstration = Demo(profile, seconds=seconds)
        began, interrupted = time.monotonic(), False
        with on_interrupt(demonstration.stop):
            _show(demonstration)
            interrupted = time.monotonic() - began < seconds
        report = demonstration.report()
    click.echo("\n".join(report.lines()))
    if report.lost or not (report.received or interrupted):
        raise MqttkitError(f"{report.lost} advertisements did not reach the subscriber")
    if interrupted:
        raise Interrupted("interrupted")


def _show(demonstration: Demo) -> None:
    """A live table on a terminal, a line a second elsewhere."""
    if sys.stdout.isatty():
        from mqttkit.cli.scan.live_table import show_table

        show_table(demonstration.batches())
        return
    began = said = time.monotonic()
    devices: set[str] = set()
    for batch in demonstration.batches():
        devices.update(advertisement.mac_address for advertisement in batch)
        if (now := time.monotonic()) - said >= 1:
            said = now
            published, received = demonstration.progress()
            click.echo(f"{now - began:4.0f} s  {len(devices)} devices  {published} published  {received} received")
