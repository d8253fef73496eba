"""`mqttkit broker up | down | status`: the broker's life."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from mqttkit.broker.profile import TUNING_PROFILES
from mqttkit.cli.options import set_up_logging
from mqttkit.cli.signals import interrupts_raise
from mqttkit.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
BACKENDS = ("auto", "docker", "process", "embedded")
PORT = click.IntRange(0, 65_535)
TUNING = (
    "max_connections",
    "max_queued_messages",
    "max_queued_bytes",
    "max_inflight_messages",
    "max_packet_size",
    "autosave_interval",
    "persistence",
)
NOT_UP = 3
"""Exit code of `status` where no broker answers."""

name_option = click.option("--name", default="default", show_default=True, help="Name of the broker.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def spec_options(command: Command) -> Command:
    """Add the options that say what a broker is to be; left out, they stay as they were."""
    options = (
        click.option("--backend", type=click.Choice(BACKENDS), help="What runs the broker.  [auto]"),
        click.option("--port", type=PORT, help="MQTT port; 0 takes a free one.  [1883]"),
        click.option("--websocket-port", type=PORT, help="WebSocket port; 0 for none."),
        click.option("--tls-port", type=PORT, help="TLS port; makes its certificate; 0 for none."),
        click.option("--websocket-tls/--no-websocket-tls", default=None, help="WebSockets with TLS (wss)."),
        click.option("--client-certificates/--no-client-certificates", default=None, help="TLS demands one."),
        click.option("--listen", metavar="ADDRESS", help="Address to listen on.  [127.0.0.1]"),
        click.option("--image", help="Docker image."),
        click.option("--anonymous/--no-anonymous", default=None, help="Let clients in without a user."),
        click.option("--allow-remote-anonymous", is_flag=True, default=None, help="Even from the network."),
        click.option("--profile", "tuning", type=click.Choice(TUNING_PROFILES), help="Tuning.  [default]"),
        click.option("--max-connections", type=int, help="Clients at a time."),
        click.option("--max-queued-messages", type=int, help="Messages kept for a client that is away."),
        click.option("--max-queued-bytes", type=int, help="Bytes of them."),
        click.option("--max-inflight-messages", type=int, help="Messages under way to a client."),
        click.option("--max-packet-size", type=int, help="Bytes of the largest packet."),
        click.option("--autosave-interval", type=int, help="Seconds between saves."),
        click.option("--persistence/--no-persistence", default=None, help="Keep messages over a restart."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@name_option
@spec_options
@json_option
def up(name: str, as_json: bool, **given: Any) -> None:
    """Start a secured broker and return when it has answered.

    It listens on loopback only, with a generated user and password that the other commands find by
    themselves. A broker that runs already is left as it is.
    """
    from mqttkit.broker import start_broker

    set_up_logging()
    with interrupts_raise():
        broker, result = start_broker(asked_for(name, given))
    show_up(result, ".".join(map(str, broker.version())), as_json=as_json)


@click.command()
@name_option
@click.option("--volumes", is_flag=True, help="Remove its data, users and profile too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def down(name: str, volumes: bool, yes: bool) -> None:
    """Stop the broker; its data, users and profile stay for the next `up`."""
    from mqttkit.broker import existing_broker
    from mqttkit.broker.profile import locked

    broker = existing_broker(name)
    if volumes and not yes and not confirmed(f"Remove all messages, users and certificates of broker {name!r}?"):
        raise UsageError("nothing was removed", hint="Without a terminal, say it with --yes")
    with locked(broker.paths):
        ran = broker.down(volumes=volumes)
    click.echo(f"broker {name} {'is down' if ran else 'did not run'}{'; its data is gone' if volumes else ''}")


@click.command()
@name_option
@json_option
def status(name: str, as_json: bool) -> int:
    """Tell whether the broker answers, where, and what it uses. Ends with 3 where it does not."""
    from mqttkit.broker.status import broker_status

    found = broker_status(name)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
    else:
        show_status(dataclasses.asdict(found))
    return 0 if found.state == "up" else NOT_UP


@click.command()
@name_option
@spec_options
@json_option
def restart(name: str, as_json: bool, **given: Any) -> None:
    """Stop the broker and start it again; options change what it is, the others stay as they were."""
    from mqttkit.broker import existing_broker, restart_broker

    set_up_logging()
    existing_broker(name)
    with interrupts_raise():
        broker, result = restart_broker(asked_for(name, given))
    show_up(result, ".".join(map(str, broker.version())), as_json=as_json)


@click.command("reload")
@name_option
def reload_(name: str) -> None:
    """Let the running broker take users, ACL and certificates as its files are now.

    The files are checked first. After the reload a stranger and a user without rights must still be denied;
    if they are not, the broker is stopped.
    """
    from mqttkit.broker import existing_broker
    from mqttkit.broker.mosquitto.reload import apply_changes
    from mqttkit.broker.profile import locked

    broker = existing_broker(name)
    with locked(broker.paths):
        live = apply_changes(broker)
    click.echo(f"broker {name} {'took its files and is still closed' if live else 'does not run: files are valid'}")


def asked_for(name: str, given: dict[str, Any]) -> Any:
    """Return the BrokerSpec: what the options say, then what was asked for the last time, then the defaults."""
    from mqttkit.broker.mosquitto.configuration import tuning
    from mqttkit.broker.profile import BrokerPaths, BrokerSpec, load_spec

    spec = load_spec(BrokerPaths.of(name)) or BrokerSpec(name=name)
    said = {key: value for key, value in given.items() if value is not None}
    overrides = {key: said.pop(key) for key in TUNING if key in said}
    spec = dataclasses.replace(spec, **said, overrides={**spec.overrides, **overrides})
    tuning(spec.tuning, spec.overrides)
    return spec


def show_up(result: Any, version: str, *, as_json: bool) -> None:
    """Print how to reach the broker; never its password."""
    from mqttkit.broker.profile import BrokerPaths

    profile = result.profile
    if as_json:
        click.echo(
            json.dumps({**public_fields(profile), "already": result.already, "seconds": round(result.seconds, 3)})
        )
        return
    state = "was up already" if result.already else f"is up, ready in {result.seconds:.2f} s"
    option = "" if profile.name == "default" else f" --broker {profile.name}"
    click.echo(f"broker {profile.name} {state}")
    rows = {
        **listener_rows(public_fields(profile)),
        "backend": f"{profile.backend} {version}",
        "user": profile.username and f"{profile.username}, password in {BrokerPaths.of(profile.name).profile}",
        "try": f"mqttkit sub{option} -v '#'   and   mqttkit pub{option} -t hello -m world",
    }
    show_rows(rows)


def show_status(found: dict[str, Any]) -> None:
    """Print a status as rows."""
    click.echo(f"broker {found['name']} is {found['state']}{_because(found['trouble'])}")
    used = found["memory_bytes"]
    rows = {
        **listener_rows(found),
        "backend": found["backend"] and f"{found['backend']} {found['version'] or ''}".strip(),
        "runs as": found["identity"],
        "health": found["health"],
        "user": found["username"],
        "uptime": found["uptime"] and f"{found['uptime']:.0f} s",
        "memory": used and f"{used / 1024 / 1024:.1f} MiB",
        "processor": used and f"{found['cpu_seconds']:.1f} s, {found['cpu_percent']:.1f} % on average",
        "clients": found["connections"] is not None and f"{found['connections']} connected",
        "messages": found["received_per_second"] is not None
        and f"{found['received_per_second']:.1f}/s in, {found['sent_per_second']:.1f}/s out",
        "last save": found["last_save"] and time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["last_save"])),
    }
    show_rows(rows)
    for lack in found["lacks"]:
        click.echo(f"  {'lacks':<10} {lack}")


def public_fields(profile: Any) -> dict[str, Any]:
    """Return what a profile says, without its passwords."""
    return {key: value for key, value in dataclasses.asdict(profile).items() if not key.endswith("password")}


def listener_rows(found: dict[str, Any]) -> dict[str, str | None]:
    """Return a row for each listener of a profile or status."""
    host = f"[{found['host']}]" if ":" in (found["host"] or "") else found["host"]
    kinds = (
        ("address", "", "port"),
        ("MQTT 5", "", "v5_port"),
        ("WebSocket", "wss://" if found.get("websocket_tls") else "ws://", "websocket_port"),
        ("TLS", "mqtts://", "tls_port"),
    )
    return {label: f"{scheme}{host}:{found[key]}" if found[key] else None for label, scheme, key in kinds}


def show_rows(rows: dict[str, Any], *, width: int = 10) -> None:
    """Print name and value of each row that has a value."""
    for label, value in rows.items():
        if value:
            click.echo(f"  {label:<{width}} {value}")


def confirmed(question: str) -> bool:
    """Ask on the terminal; no answer is no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _because(trouble: str | None) -> str:
    return f": {trouble}" if trouble else ""
