"""`mqttkit broker bridge …`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from mqttkit.cli.broker.accounts import known_password, password_file_option
from mqttkit.cli.broker.options import json_option, name_option
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.signals import interrupts_raise
from mqttkit.errors import UsageError

bridge_argument = click.argument("bridge", metavar="BRIDGE")


@click.group("bridge", cls=CommandGroup)
def bridge_group() -> None:
    """Connect a broker to other brokers: mosquitto's own bridges."""


@bridge_group.command("add")
@bridge_argument
@click.option("--to", "url", metavar="URL", required=True, help="The other broker: mqtts://HOST:8883 or mqtt://HOST.")
@click.option(
    "--topic",
    "topics",
    metavar="TOPIC",
    multiple=True,
    required=True,
    help="'FILTER [out|in|both [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]'; default out 1. Can be repeated.",
)
@click.option("-u", "--username", metavar="NAME", help="User on the other broker.")
@password_file_option
@click.option("--cafile", metavar="FILE", help="PEM file of the authorities to trust.  [the system's]")
@click.option("--cert", metavar="FILE", help="PEM file of the certificate to show to the other broker.")
@click.option("--key", metavar="FILE", help="PEM file of its private key, without a passphrase.")
@click.option("--no-test", is_flag=True, help="Keep it although the other broker may be unreachable.")
@name_option
def bridge_add(bridge: str, name: str, no_test: bool, **given: Any) -> None:
    """Add a bridge, restart the broker, and test the bridge both ways.

    If the bridge does not connect, or a message does not arrive, or you press Ctrl-C, the bridge is removed again.

    \b
    mqttkit broker bridge add cloud --to mqtts://site@broker.example:8883 --topic 'site/# out 1' --topic 'commands/# in'
    """
    from mqttkit.broker.bridges.changes import add_bridge

    broker = named_broker(name)
    connection = requested_bridge(broker, bridge, **given)
    with interrupts_raise():
        trials = add_bridge(broker, connection, test=not no_test)
    if broker.running() is None:
        click.echo(f"bridge {bridge} to {connection.url} is added; the broker is not running")
        return
    click.echo(f"bridge {bridge} to {connection.url} is {'added, not tested' if no_test else 'connected'}")
    show_trials(trials)


@bridge_group.command("test")
@bridge_argument
@name_option
def bridge_test(bridge: str, name: str) -> None:
    """Wait until a bridge is connected, and test it both ways.

    \b
    mqttkit broker bridge test cloud
    """
    from mqttkit.broker.bridges.changes import find_bridge
    from mqttkit.broker.bridges.trial import try_bridge

    broker = named_broker(name)
    connection = find_bridge(broker, bridge)
    trials = try_bridge(broker, connection)
    click.echo(f"bridge {bridge} to {connection.url} is connected")
    show_trials(trials)


@bridge_group.command("list")
@name_option
@json_option
def bridge_list(name: str, as_json: bool) -> None:
    """List the bridges and their topics. `broker status` shows whether they are connected.

    \b
    mqttkit broker bridge list --json
    """
    from mqttkit.broker.mosquitto.bridge_connections import load_bridges

    found = load_bridges(named_broker(name).paths)
    if as_json:
        rows = [
            {"name": one.name, "to": one.url, "username": one.username, "topics": [topic.line for topic in one.topics]}
            for one in found
        ]
        click.echo(json.dumps(rows))
        return
    for one in found:
        click.echo(f"{one.name} to {one.url}{f' as {one.username}' if one.username else ''}")
        for topic in one.topics:
            click.echo(f"  {topic.line}")


@bridge_group.command("remove")
@bridge_argument
@name_option
def bridge_remove(bridge: str, name: str) -> None:
    """Remove a bridge and restart the broker. The other broker keeps its session until that expires.

    \b
    mqttkit broker bridge remove cloud
    """
    from mqttkit.broker.bridges.changes import remove_bridge

    remove_bridge(named_broker(name), bridge)
    click.echo(f"bridge {bridge} removed")


def named_broker(name: str) -> Any:
    """Return the broker of that name; raise UsageError if it was never set up."""
    from mqttkit.broker import existing_broker

    set_up_logging(quiet=True)
    return existing_broker(name)


def requested_bridge(
    broker: Any,
    name: str,
    *,
    url: str,
    topics: tuple[str, ...],
    username: str | None,
    password_file: str | None,
    **files: str | None,
) -> Any:
    """Return the BridgeConnection that the options describe; asks for the password if there is no file.

    `files` are --cafile, --cert and --key.
    """
    from mqttkit.addresses import parse_url
    from mqttkit.broker.bridges.certificates import read_certificates
    from mqttkit.broker.bridges.changes import new_client_id
    from mqttkit.broker.mosquitto.bridge_connections import BridgeConnection, BridgeTopic

    other = parse_url(url)
    if other.password is not None:
        raise UsageError(
            "a password in a URL is visible to every user of this machine", hint="Put it into a file: --password-file"
        )
    if other.websockets:
        raise UsageError("mosquitto's bridges cannot use WebSockets", hint="Use mqtts:// or mqtt://")
    if not other.tls and any(files.values()):
        raise UsageError("--cafile, --cert and --key need a URL with mqtts://")
    certificates = asdict(read_certificates(**files)) if other.tls else {}
    username = username or other.username
    return BridgeConnection(
        name=name,
        host=other.host,
        port=other.port,
        client_id=new_client_id(broker, name),
        topics=tuple(BridgeTopic.parse(topic) for topic in topics),
        username=username,
        password=known_password(password_file) if username else None,
        **certificates,
    )


def show_trials(trials: Any) -> None:
    """Print what became of each message."""
    for trial in trials:
        result = f"arrived after {trial.seconds:.2f} s" if trial.seconds is not None else f"not sent: {trial.reason}"
        click.echo(f"  {trial.direction:<4} {trial.topic}: {result}")
