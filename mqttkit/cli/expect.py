"""`mqttkit expect` and `mqttkit wait-for-broker`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import print_json
from mqttkit.cli.signals import interrupts_raise
from mqttkit.errors import UsageError
from mqttkit.topics import check_topic_filter

if TYPE_CHECKING:
    from mqttkit.expectations.expectation import Expectation
    from mqttkit.expectations.matching import MismatchCheck
    from mqttkit.expectations.runner import StepResult

WRONG, ABSENT = 8, 27
SHOWN_BYTES = 200
"""Bytes of a payload that a report shows."""
STEP_OPTIONS = [
    click.option("--within", "seconds", metavar="SECONDS", default="10", help="Time limit, such as 5 or 5s.  [10]"),
    click.option("--match", "programs", multiple=True, metavar="JQ", help="jq program that must yield true."),
    click.option("--schema", type=click.Path(path_type=Path), metavar="FILE", help="JSON Schema of the payloads."),
    click.option("--payload", metavar="TEXT", help="Exact payload."),
    click.option("--count", type=COUNT, default=1, help="Messages that must match.  [1]"),
    click.option("--order", "in_order", is_flag=True, help="The --match programs must match one after the other."),
    click.option("--none", is_flag=True, help="Expect that no message matches within the time limit."),
    click.option("-R", "skip_retained", is_flag=True, help="Ignore retained messages."),
]


class ExpectCommand(GroupedCommand):
    """A command whose arguments may hold further steps (`--then FILTER ...`) and a command line (`-- COMMAND`)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the command line and the further steps out; parse the rest."""
        command: list[str] = []
        if "--" in args:
            place = args.index("--")
            args, command = args[:place], args[place + 1 :]
        steps: list[list[str]] = [[]]
        for word in args:
            if word == "--then":
                steps.append([])
            else:
                steps[-1].append(word)
        rest = super().parse_args(ctx, steps[0])
        ctx.params["command"] = tuple(command)
        ctx.params["further"] = tuple(_STEP.make_context("--then", words, parent=ctx).params for words in steps[1:])
        return rest


def _with_step_options(command: Any) -> Any:
    for option in reversed(STEP_OPTIONS):
        command = option(command)
    return click.argument("topic_filter", metavar="FILTER", type=TOPIC)(command)


@click.command(add_help_option=False)
@_with_step_options
def _STEP(**given: Any) -> None:  # noqa: N802  # a command that only parses
    """Parse one further step."""


@click.command(cls=ExpectCommand, default_qos="1")
@_with_step_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as JUnit XML.")
@terse_connection_options
def expect(connection: ConnectionOptions, *, as_json: bool, junit: Path | None, **given: Any) -> int:
    """Wait for messages on FILTER and check them; exit with 0 as soon as they have arrived.

    \b
    mqttkit expect 'site/+/status' --within 5s --match '.state == "ready"' --count 3
    mqttkit expect 'job/1' --payload started --then 'job/1' --payload done -- ./job 1

    A command after -- starts once the broker has acknowledged the subscriptions. Exit code 8: messages arrived, but
    not the expected ones. Exit code 27: no message arrived.
    """
    from mqttkit.expectations import junit as xml
    from mqttkit.expectations.expectation import Ending
    from mqttkit.expectations.runner import run

    command, further = given.pop("command"), given.pop("further")
    steps = [_expectation(each) for each in (given, *further)]
    qos = 1 if connection.qos is None else connection.qos
    with interrupts_raise():
        results = run(connection.settings.mqtt, steps, qos=qos, command=command)
    texts = [_text(result) for result in results]
    if as_json:
        print_json([_as_object(result) for result in results])
    for result, text in zip(results, texts, strict=True):
        if result.ending is not Ending.MATCHED:
            click.echo(text, err=True)
    if junit is not None:
        junit.write_text(xml.junit_xml(results, texts), "utf-8")
    codes = {Ending.MATCHED: 0, Ending.WRONG: WRONG, Ending.ABSENT: ABSENT}
    return codes[results[-1].ending]


def _expectation(given: dict[str, Any]) -> Expectation:
    from mqttkit.expectations.expectation import Expectation
    from mqttkit.expectations.matching import jq_check, schema_check, text_check

    programs = given["programs"]
    checks: list[MismatchCheck] = [jq_check(each) for each in programs]
    names = list(programs)
    if given["schema"] is not None:
        checks.append(schema_check(given["schema"]))
        names.append(f"the schema {given['schema']}")
    if given["payload"] is not None:
        checks.append(text_check(os.fsencode(given["payload"])))
        names.append(f"payload {given['payload']!r}")
    if given["in_order"] and (given["none"] or given["count"] != 1 or len(checks) != len(programs)):
        raise UsageError("--order takes several --match programs, and neither --count, --none, --schema nor --payload")
    if given["in_order"] and not programs:
        raise UsageError("--order needs at least one --match program")
    return Expectation(
        topic_filter=check_topic_filter(given["topic_filter"]),
        checks=tuple(checks),
        names=tuple(names),
        count=given["count"],
        seconds=_seconds(given["seconds"]),
        none=given["none"],
        in_order=given["in_order"],
        skip_retained=given["skip_retained"],
    )


def _seconds(text: str) -> float:
    scale = {"ms": 0.001, "s": 1.0, "m": 60.0}
    unit = next((each for each in ("ms", "s", "m") if text.endswith(each)), "")
    try:
        seconds = float(text.removesuffix(unit)) * scale.get(unit, 1.0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--within {text!r} is not a time", hint="For example: --within 5 or --within 500ms")
    return seconds


def _text(result: StepResult) -> str:
    """Return the report of an expectation: what was expected, and what arrived instead."""
    progress = result.progress
    counts = f"{len(progress.matched)} matched, {progress.others} did not"
    lines = [f"expected {progress.expectation.text()}: {counts}"]
    instead = [(message, reason) for message, reason in progress.last]
    if progress.expectation.none:
        instead = [(message, "it must not arrive") for message in progress.matched]
    lines += [f"  {message.topic!r} {_shown(message.payload)}: {reason}" for message, reason in instead]
    return "\n".join(lines)


def _shown(payload: bytes) -> str:
    cut = payload[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return ascii(cut) if not cut.isprintable() else cut + ("…" if len(payload) > SHOWN_BYTES else "")


def _as_object(result: StepResult) -> dict[str, Any]:
    progress = result.progress
    return {
        "expected": progress.expectation.text(),
        "ending": result.ending.value,
        "seconds": round(result.seconds, 3),
        "matched": [{"topic": each.topic, "payload": _shown(each.payload)} for each in progress.matched],
        "others": progress.others,
        "last": [{"topic": m.topic, "payload": _shown(m.payload), "reason": why} for m, why in progress.last],
    }


@click.command("wait-for-broker", cls=GroupedCommand, default_qos="")
@click.option("-W", "seconds", type=SOME_SECONDS, default=30.0, help="Time limit.  [30]")
@terse_connection_options
def wait_for_broker(connection: ConnectionOptions, *, seconds: float) -> None:
    """Wait until the broker answers CONNECT. An open port alone proves nothing.

    Ends with 0, with 4 if the broker refuses the login, or with 3 after the time limit.

    \b
    mqttkit wait-for-broker -h localhost -W 30
    """
    from mqttkit.client import MqttClient
    from mqttkit.errors import BrokerUnreachable

    deadline = time.monotonic() + seconds
    with interrupts_raise():
        while True:
            try:
                with MqttClient(connection.settings.mqtt, retry=False) as client:
                    client.connect(timeout=max(deadline - time.monotonic(), 0.1))
                return
            except BrokerUnreachable:
                if time.monotonic() + 0.1 > deadline:
                    raise
            time.sleep(0.1)
