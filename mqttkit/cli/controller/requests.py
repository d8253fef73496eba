"""`mqttkit controller request | event publish | policy set | policy show`: talk to controllers that run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.controller.options import controller_options, sender_option
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import CommandGroup, GroupedCommand
from mqttkit.cli.options.numbers import Number
from mqttkit.errors import PublishFailed, UsageError

if TYPE_CHECKING:
    from mqttkit.controller.operation.operator import Operator

timeout_option = click.option(
    "--timeout", type=Number("SECONDS", low=0.1), default=10.0, help="How long to wait for the answer.  [10]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.command(short_help="Ask a controller and print its answer.", cls=GroupedCommand)
@controller_options
@sender_option
@click.argument("address", metavar="CONTROLLER")
@click.argument("type_", metavar="TYPE")
@click.argument("payload", metavar="[JSON]", default="{}")
@timeout_option
@terse_connection_options
def request(*, connection: ConnectionOptions, address: str, type_: str, payload: str, timeout: float) -> None:
    """Send a request of TYPE with the JSON object to CONTROLLER and print the payload of the answer.

    `ping` and `key.check` work with every controller, the others are those of the application. Exit code 1: the
    controller refused, is offline or did not answer in time.

    \b
    mqttkit controller request lc-1 ping
    """
    from mqttkit.cli.output.render import print_json

    content = _object(payload, "the payload")
    with _operator(connection, timeout) as operator:
        print_json(dict(operator.request(address, type_, content, timeout=timeout)))


@click.group(cls=CommandGroup)
def event() -> None:
    """Publish events."""


@event.command("publish", short_help="Publish an event to controllers.")
@controller_options
@sender_option
@click.argument("name")
@click.argument("data", metavar="[JSON]", default="{}")
@click.option("--scope", metavar="NAME", default="system", help="A region; without it, all controllers.  [system]")
@timeout_option
@terse_connection_options
def publish_event(*, connection: ConnectionOptions, name: str, data: str, scope: str, timeout: float) -> None:
    """Publish the event NAME with the JSON object as its data.

    Exit code 6: the broker did not take it.

    \b
    mqttkit controller event publish link_down '{"port": 7}' --scope zone-A
    """
    content = _object(data, "the data")
    with _operator(connection, timeout) as operator:
        promise = operator.publish_event(name, content, scope=scope)
        promise.wait(timeout)
        if not promise.ok:
            raise PublishFailed(f"the event was not published: {promise.reason or f'no answer within {timeout:g} s'}")


@click.group(cls=CommandGroup)
def policy() -> None:
    """Show policies, and change those of running controllers."""


@policy.command("set", short_help="Let a running controller publish another policy.")
@controller_options
@sender_option
@click.argument("path", metavar="FILE", type=click.Path())
@click.option("--scope", metavar="NAME", default="global", help="`global` or a region.  [global]")
@click.option("--to", metavar="ID", help="Controller that publishes it.  [the one that is online]")
@click.option("--expires", type=Number("SECONDS", low=1), help="The policy ends after this time.")
@timeout_option
@terse_connection_options
def set_policy(
    *, connection: ConnectionOptions, path: str, scope: str, to: str | None, expires: float | None, timeout: float
) -> None:
    """Ask the controller that publishes a scope's policy to publish the JSON object in FILE as the next one.

    The key that signs must be a global one, an operator's, the region's regional one, or a shared one. Prints scope and
    version.

    \b
    mqttkit controller policy set rules.json --scope zone-A
    """
    from mqttkit.cli.output.render import print_json
    from mqttkit.controller.operation.operator import find_publisher

    settings = connection.settings
    rules = read_rules(path)
    address = to or find_publisher(settings.controller, settings.mqtt, scope, timeout)
    ends = None if expires is None else int((time.time() + expires) * 1_000)
    with _operator(connection, timeout) as operator:
        answer = operator.request(address, "policy.set", {"rules": rules, "expires": ends}, timeout=timeout)
    print_json({**answer, "controller": address})


@policy.command("show")
@controller_options
@json_option
@terse_connection_options
def show_policy(*, connection: ConnectionOptions, as_json: bool) -> None:
    """Show the policies, who signed them, and who applied them.

    \b
    mqttkit controller policy show
    """
    from mqttkit.cli.output.render import print_json, print_table
    from mqttkit.controller.operation.operator import RetainedState

    settings = connection.settings
    state = RetainedState(settings.controller, settings.mqtt)
    rows: list[dict[str, Any]] = []
    for scope, one in sorted(state.policies.items()):
        applied = [row["controller"] for row in state.book.rows() if row["applied"].get(scope) == one.policy.version]
        key = one.key.kid if one.key is not None else ""
        rows.append({
            **{"policy": scope, **one.policy.to_payload(), "from": one.sender_id, "key": key, "applied_by": applied},
        })  # fmt: skip
    for topic, reason in state.refused.items():
        click.echo(f"refused: {topic}: {reason}", err=True)
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = ("policy", "version", "from", "key", "rules", "applied_by")
    table = [[_cell(row[column]) for column in columns] for row in rows]
    print_table(columns, table, optional=("key", "from"))


def read_rules(path: str) -> dict[str, Any]:
    """Return the JSON object in a file; raise UsageError."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the policy in {path}: {error}") from error
    return _object(text, f"the policy in {path}")


def _operator(connection: ConnectionOptions, timeout: float) -> Operator:
    from mqttkit.controller.operation.operator import Operator

    settings = connection.settings
    operator = Operator(settings.controller, settings.mqtt)
    try:
        operator.require_connection(timeout)
    except BaseException:
        operator.disconnect_mqtt(flush=0)
        raise
    return operator


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {what}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"cannot read {what}: it must be a JSON object")
    return value


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
