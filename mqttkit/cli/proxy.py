"""`mqttkit proxy`: faults on purpose."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from mqttkit.addresses import parse_address, show_address
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SEED
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import UsageError


@click.command(cls=GroupedCommand)
@click.argument("target", metavar="BROKER")
@click.option("--listen", default="127.0.0.1:11883", metavar="ADDRESS", help="Where to listen.  [127.0.0.1:11883]")
@click.option(
    "--rule", "rules", metavar="RULE", multiple=True, help="A fault, such as 'drop PUBACK 3'; can be repeated."
)
@click.option("--seed", type=SEED, default=0, help="Seed of the random numbers.  [0]")
@click.option("--rate", type=COUNT, metavar="BYTES", help="Bytes a second for each direction.")
@click.option("--log", "show", is_flag=True, help="Print each packet, decoded.")
@click.option("--quiet", is_flag=True, help="Print only the error that ends the command on stderr.")
def proxy(target: str, listen: str, *, show: bool, quiet: bool, **given: Any) -> None:
    """Forward connections to BROKER (host:port), and make faults on purpose.

    \b
    mqttkit proxy localhost:1883 --rule 'drop PUBACK 3' --log
    mqttkit proxy localhost:1883 --rule 'duplicate PUBLISH every 10 from broker'
    mqttkit proxy localhost:1883 --rule 'delay PUBLISH 200ms±50' --rule 'cut PUBLISH 100'
    mqttkit proxy localhost:1883 --rule 'answer CONNECT 0x97'

    Rules are: drop, duplicate, delay, cut, answer. They count packets over all connections. TLS is not supported.
    """
    from mqttkit.proxy.rules import parse_rule
    from mqttkit.proxy.server import Proxy
    from mqttkit.stop import Stop

    set_up_logging(quiet=quiet)
    place, where = _address(target, 1883), _address(listen, 11883)
    rules = [parse_rule(text) for text in given["rules"]]
    stop = Stop()
    with (
        on_interrupt(stop.set),
        Proxy(
            place, rules=rules, seed=given["seed"], rate=given["rate"], listen=where, on_packet=_print if show else None
        ) as running,
    ):
        click.echo(f"forwarding {show_address(where[0], running.port)} to {show_address(*place)}", err=True)
        while not stop.wait(3600.0):
            continue
    totals = running.totals
    click.echo(
        f"{totals.connections} connections, {totals.packets} packets, {totals.cuts} cuts; rules applied: "
        + (", ".join(f"{text}: {rule.applied}" for text, rule in zip(given["rules"], rules, strict=True)) or "none"),
        err=True,
    )


def _address(text: str, port: int) -> tuple[str, int]:
    try:
        return parse_address(text, port)
    except ValueError as error:
        raise UsageError(f"{text!r} is not host:port", hint="For example: localhost:1883") from error


def _print(from_client: bool, text: str, action: str) -> None:
    arrow = "client -> broker" if from_client else "broker -> client"
    sys.stdout.write(f"{time.time():.6f} {arrow} {text}{f'  [{action}]' if action else ''}\n")
    sys.stdout.flush()
