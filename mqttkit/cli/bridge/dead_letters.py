"""`mqttkit bridge dead-letters`: the messages that the bridge refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.bridge.options import store_options
from mqttkit.cli.bridge.stores import opened_registry, opened_sink
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.loading import load_without_broker
from mqttkit.cli.options.setting_option import Command, add_options
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings

if TYPE_CHECKING:
    from mqttkit.bridge.dead_letters import LetterSelection
    from mqttkit.bridge.sinks.types import StoredLetter


@click.group("dead-letters", cls=CommandGroup)
def dead_letters() -> None:
    """Inspect the messages that the bridge refused; retry, export or remove them."""


def selection_options(command: Command) -> Command:
    """Add the options that choose letters; `_selection` takes them from the command's arguments."""
    options = (
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.option("--reason", metavar="REASON", help="Only letters refused for this reason."),
        click.option(
            "--before",
            type=click.DateTime(),
            metavar="TIME",
            help="Only letters received before this time (UTC): 2026-11-21T04:00:00.",
        ),
    )
    return add_options(command, options)


def _selection(given: dict[str, Any]) -> LetterSelection:
    from mqttkit.bridge.dead_letters import LetterSelection

    before = given.pop("before")
    before_ms = None if before is None else round(before.replace(tzinfo=timezone.utc).timestamp() * 1000)
    return LetterSelection(ids=frozenset(given.pop("ids")), reason=given.pop("reason"), before_ms=before_ms)


def _settings(config: str | None) -> BridgeSettings:
    set_up_logging()
    return load_without_broker(config).bridge


@dead_letters.command("list", short_help="List letters, one per line.")
@selection_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each letter.")
@store_options
def list_letters(config: str | None, as_json: bool, **given: Any) -> None:
    """List letters: identifier, time, reason, bytes, topic, separated by tabs.

    \b
    mqttkit bridge dead-letters list --reason tenant_unknown --sink sqlite:metrics.db
    """
    from mqttkit.bridge.dead_letters import select
    from mqttkit.cli.output.render import print_json

    selection = _selection(given)
    with opened_sink(_settings(config)) as sink:
        for stored in select(sink.letters, selection):
            letter = stored.letter
            if as_json:
                line = {"id": stored.id, "received": _time(stored), "reason": letter.reason, "bytes": letter.size}
                print_json({**line, "topic": letter.topic})
                continue
            click.echo(f"{stored.id}\t{_time(stored)}\t{letter.reason}\t{letter.size}\t{letter.topic!r}")


@dead_letters.command(short_help="Show one letter as JSON.")
@click.argument("letter_id")
@store_options
def show(letter_id: str, config: str | None) -> None:
    """Show one letter as JSON; payload_text is the payload as text, with other bytes escaped.

    \b
    mqttkit bridge dead-letters show 17 --sink sqlite:metrics.db
    """
    with opened_sink(_settings(config)) as sink:
        stored = sink.letters.get(letter_id)
    if stored is None:
        raise UsageError(f"no dead letter {letter_id!r}", hint="List them: mqttkit bridge dead-letters list")
    text = stored.letter.body.decode("utf-8", "backslashreplace")
    shown = {"id": stored.id, "time": _time(stored), **stored.letter._asdict(), "payload_text": text}
    click.echo(json.dumps(shown, ensure_ascii=False, indent=2))


@dead_letters.command(short_help="Parse letters again and store their metrics.")
@selection_options
@store_options
def retry(config: str | None, **given: Any) -> None:
    """Parse letters again, all or the chosen ones: valid metrics are stored, the other letters stay.

    Use it after adding an unknown tenant or correcting the topic template.

    \b
    mqttkit bridge dead-letters retry --sink sqlite:metrics.db --tenants tenants.yaml
    """
    from mqttkit.bridge.dead_letters import retry as retry_letters
    from mqttkit.bridge.flow.mapping import open_parser

    selection, bridge = _selection(given), _settings(config)
    parser = open_parser(bridge)
    with opened_registry(bridge) as registry, opened_sink(bridge) as sink:
        sink.open()
        parser.open()
        done = retry_letters(sink, parser, registry, selection)
    click.echo(f"stored={done.stored} duplicate={done.duplicate} refused={done.refused}")


@dead_letters.command()
@selection_options
@store_options
def export(config: str | None, **given: Any) -> None:
    """Print letters as JSON lines, with the payload in base64.

    \b
    mqttkit bridge dead-letters export --sink sqlite:metrics.db > letters.jsonl
    """
    from mqttkit.bridge.dead_letters import export as export_letters

    selection = _selection(given)
    with opened_sink(_settings(config)) as sink:
        export_letters(sink.letters, selection, lambda line: click.echo(json.dumps(line, ensure_ascii=False)))


@dead_letters.command()
@selection_options
@click.option("--all", "everything", is_flag=True, help="Delete all of them.")
@store_options
def purge(everything: bool, config: str | None, **given: Any) -> None:
    """Delete the chosen letters, or --all.

    \b
    mqttkit bridge dead-letters purge 17 --sink sqlite:metrics.db
    """
    from mqttkit.bridge.dead_letters import LetterSelection
    from mqttkit.bridge.dead_letters import purge as purge_letters

    selection = _selection(given)
    if everything == (selection != LetterSelection()):
        raise UsageError("choose letters by identifier, --reason or --before, or give --all")
    with opened_sink(_settings(config)) as sink:
        click.echo(f"removed={purge_letters(sink.letters, selection)}")


def _time(stored: StoredLetter) -> str:
    moment = datetime.fromtimestamp(stored.letter.received_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
