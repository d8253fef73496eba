"""`mqttkit broker up | down | restart | reload | status`."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from typing import Any

import click

from mqttkit.cli.broker.options import TUNING, discard_option, json_option, name_option, spec_options
from mqttkit.cli.broker.rows import listener_rows, show_rows
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.signals import interrupts_raise
from mqttkit.errors import UsageError

log = logging.getLogger(__name__)

NOT_UP = 3
"""Exit code of `status` if the broker does not answer."""


@click.command(cls=GroupedCommand)
@name_option
@spec_options
@json_option
def up(name: str, as_json: bool, **given: Any) -> None:
    """Start a secured broker and wait until it answers.

    It listens on loopback only. Its user and password are generated, and the other commands find them
    automatically. If the broker already runs, this command changes nothing.

    \b
    mqttkit broker up
    mqttkit broker up --listen 0.0.0.0 --tls-port 8883
    """
    from mqttkit.broker import start_broker

    set_up_logging()
    began = time.monotonic()
    with interrupts_raise():
        broker, result = start_broker(requested_spec(name, given))
    show_up(broker, result, time.monotonic() - began, as_json=as_json)


@click.command(cls=GroupedCommand)
@name_option
@click.option("--volumes", is_flag=True, help="Also delete its data, users and profile.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@discard_option
def down(name: str, volumes: bool, yes: bool, discard_unsaved: bool) -> None:
    """Stop the broker; its data, users and profile stay for the next `up`.

    The broker first saves its messages. If that fails, it keeps running.

    \b
    mqttkit broker down
    """
    from mqttkit.broker import existing_broker, stop_broker

    broker = existing_broker(name)
    if volumes and not yes and not confirmed(f"Remove all messages, users and certificates of broker {name!r}?"):
        raise UsageError("nothing was removed", hint="Without a terminal, confirm with --yes")
    ran = stop_broker(broker, volumes=volumes, discard_unsaved=discard_unsaved)
    click.echo(f"broker {name} {'stopped' if ran else 'was not running'}{'; its data is deleted' if volumes else ''}")


@click.command(cls=GroupedCommand)
@name_option
@json_option
def status(name: str, as_json: bool) -> int:
    """Show whether the broker answers, its addresses, and its memory and CPU. Ends with 3 if it does not answer.

    \b
    mqttkit broker status
    """
    from mqttkit.broker.status import broker_status

    found = broker_status(name)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
    else:
        show_status(dataclasses.asdict(found))
    return 0 if found.state == "up" else NOT_UP


@click.command(cls=GroupedCommand)
@name_option
@spec_options
@click.option("--reset", is_flag=True, help="Drop single tuning settings of earlier commands; only the profile counts.")
@discard_option
@json_option
def restart(name: str, as_json: bool, discard_unsaved: bool, reset: bool, **given: Any) -> None:
    """Stop the broker and start it again; options not given keep their value.

    The broker first saves its messages. If that fails, or if it could not start again, it keeps running.

    \b
    mqttkit broker restart --profile small --max-connections 200
    """
    from mqttkit.broker import existing_broker, restart_broker

    set_up_logging()
    existing_broker(name)
    began = time.monotonic()
    with interrupts_raise():
        spec = requested_spec(name, given, reset=reset)
        broker, result = restart_broker(spec, discard_unsaved=discard_unsaved)
    show_up(broker, result, time.monotonic() - began, as_json=as_json)


@click.command("reload", cls=GroupedCommand)
@name_option
def reload_(name: str) -> None:
    """Make the running broker apply its changed files: users, ACL and certificates.

    The files are checked first. After the reload an unknown user and a user without rights must still be denied;
    if one of them is not, the broker is stopped.

    \b
    mqttkit broker reload
    """
    from mqttkit.broker import existing_broker
    from mqttkit.broker.live.reload import apply_changes
    from mqttkit.broker.profile import locked

    broker = existing_broker(name)
    with locked(broker.paths):
        live = apply_changes(broker)
    result = "applied its files and still denies strangers" if live else "is not running; its files are valid"
    click.echo(f"broker {name} {result}")


def requested_spec(name: str, given: dict[str, Any], *, reset: bool = False) -> Any:
    """Return the BrokerSpec: the options given, then those of the last time, then the defaults.

    Single tuning settings of the last time beat a new tuning profile; they are named, and `reset` drops them.
    """
    from mqttkit.broker.mosquitto.configuration import tuning
    from mqttkit.broker.profile import BrokerPaths, BrokerSpec, load_spec

    spec = load_spec(BrokerPaths.of(name)) or BrokerSpec(name=name)
    given = {key: value for key, value in given.items() if value not in (None, ())}
    if "log_types" in given:
        given["log_types"] = tuple(kind for kind in given["log_types"] if kind != "none")
    overrides = {key: given.pop(key) for key in TUNING if key in given}
    kept = {} if reset else {key: value for key, value in spec.overrides.items() if key not in overrides}
    if kept and "tuning" in given:
        listed = ", ".join(f"{key} {value}" for key, value in kept.items())
        log.warning(
            "these settings keep their own values beside the profile: %s. Drop them: mqttkit broker restart --reset",
            listed,
        )
    spec = dataclasses.replace(spec, **given, overrides={**kept, **overrides})
    tuning(spec.tuning, spec.overrides)
    return spec


def show_up(broker: Any, result: Any, seconds: float, *, as_json: bool) -> None:
    """Print how to reach the broker and how long the start took, and what the network reaches; never its password."""
    from mqttkit.broker.exposure import exposed_listeners
    from mqttkit.broker.profile import BrokerPaths

    profile, exposed = result.profile, exposed_listeners(broker.spec)
    urls = [url for listener in exposed for url in listener.urls()]
    if exposed:
        _warn_of_exposure(exposed, anonymous=broker.spec.anonymous)
    if as_json:
        done = {"already": result.already, "seconds": round(seconds, 3), "network_urls": urls}
        click.echo(json.dumps({**public_fields(profile), **done}))
        return
    version = ".".join(map(str, broker.version()))
    state = "was up already" if result.already else f"is up, ready in {seconds:.2f} s"
    option = "" if profile.name == "default" else f" --broker {profile.name}"
    click.echo(f"broker {profile.name} {state}")
    rows = {
        **listener_rows(public_fields(profile)),
        "network": "  ".join(urls),
        "backend": f"{profile.backend} {version}",
        "user": profile.username and f"{profile.username}, password in {BrokerPaths.of(profile.name).profile}",
        "try": f"mqttkit sub{option} -v '#'   and   mqttkit pub{option} -t hello -m world",
    }
    show_rows(rows)


def _warn_of_exposure(exposed: Any, *, anonymous: bool) -> None:
    """Name each listener that other machines reach, and whether its passwords travel in clear text."""
    names = []
    for listener in exposed:
        where = "every address" if listener.listen.is_unspecified else listener.listen
        clear = "" if listener.encrypted else " WITHOUT TLS: passwords and messages travel in clear text"
        names.append(f"{listener.name} on {where}, port {listener.port}{clear}")
    need = "nothing: anonymous clients are allowed" if anonymous else "a user and its password"
    log.warning(
        "other machines can now reach this broker: %s. They need %s. Examine that with: mqttkit broker doctor",
        "; ".join(names),
        need,
    )


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
    for bridge in found["bridges"]:
        state = "connected" if bridge["connected"] else "not connected"
        click.echo(f"  {'bridge':<10} {bridge['name']} to {bridge['to']}: {state}")
    for lack in found["lacks"]:
        click.echo(f"  {'lacks':<10} {lack}")


def public_fields(profile: Any) -> dict[str, Any]:
    """Return what a profile says, without its passwords."""
    return {key: value for key, value in dataclasses.asdict(profile).items() if not key.endswith("password")}


def confirmed(question: str) -> bool:
    """Ask on the terminal; False without an answer."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _because(trouble: str | None) -> str:
    return f": {trouble}" if trouble else ""
