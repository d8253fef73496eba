"""`mqttkit bridge tenant` and `mqttkit bridge dead-letters`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.bridge import overlay
from mqttkit.cli.options import load, set_up_logging
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings

if TYPE_CHECKING:
    from mqttkit.bridge.dead_letters import LetterSelection
    from mqttkit.bridge.sinks.types import Sink, StoredLetter
    from mqttkit.bridge.tenants.types import TenantRegistry

Command = Callable[..., Any]


def store_options(command: Command) -> Command:
    """Add the options for sink and registry."""
    options = [
        click.option("--sink", help="The bridge's sink."),
        click.option("--tenants", help="Known tenants: a YAML file, sqlite:PATH or redis://…#SET."),
        click.option("--topic", help="Topic template."),
        click.option("--stream", help="Redis: the stream's name.  [mqttkit:metrics]"),
        click.option("--list", help="Redis: the list's name, if the bridge pushes jobs."),
        click.option("--dead-letters", help="HTTP and JSONL: SQLite file for the dead letters."),
        click.option("--config", type=click.Path(), help="Settings file.  [mqttkit.yaml if it exists]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _settings(given: dict[str, Any]) -> BridgeSettings:
    set_up_logging()
    config = given.pop("config")
    return overlay(load(config, {}), given).bridge


@contextlib.contextmanager
def _registry(bridge: BridgeSettings) -> Iterator[TenantRegistry]:
    from mqttkit.bridge.tenants import open_registry

    if not bridge.tenants:
        raise UsageError("no tenants given", hint="Example: --tenants tenants.yaml")
    with contextlib.closing(open_registry(bridge.tenants)) as registry:
        yield registry


@contextlib.contextmanager
def _sink(bridge: BridgeSettings) -> Iterator[Sink]:
    from mqttkit.bridge.sinks import open_sink, sink_options

    if not bridge.sink:
        raise UsageError("no sink given", hint="Example: --sink sqlite:metrics.db")
    with contextlib.closing(open_sink(bridge.sink, sink_options(bridge))) as sink:
        sink.open_letters()
        yield sink


@click.group()
def tenant() -> None:
    """Manage the tenants that may store metrics."""


@tenant.command()
@click.argument("tenant_id")
@click.option("--name", default="", help="A name for people.")
@store_options
def add(tenant_id: str, name: str, **given: Any) -> None:
    """Add a tenant."""
    with _registry(_settings(given)) as registry:
        click.echo("added" if registry.add(tenant_id, name) else "already known")


@tenant.command()
@click.argument("tenant_id")
@store_options
def remove(tenant_id: str, **given: Any) -> None:
    """Remove a tenant. Its metrics become dead letters from now on."""
    with _registry(_settings(given)) as registry:
        if not registry.remove(tenant_id):
            raise UsageError(f"tenant {tenant_id} is not known", hint="List them: mqttkit bridge tenant list")
        click.echo("removed")


@tenant.command("list")
@store_options
def list_tenants(**given: Any) -> None:
    """List the tenants: identifier, tab, name."""
    with _registry(_settings(given)) as registry:
        for tenant_id, name in registry.all().items():
            click.echo(f"{tenant_id}\t{name}" if name else tenant_id)


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, retry, export and purge messages that were refused."""


def selection_options(command: Command) -> Command:
    """Add the options that choose letters."""
    command = click.option("--reason", help="Only those refused for this reason.")(command)
    before = click.option("--before", type=click.DateTime(), help="Only those received before this time (UTC).")
    return click.argument("ids", nargs=-1)(before(command))


def _selection(given: dict[str, Any]) -> LetterSelection:
    from mqttkit.bridge.dead_letters import LetterSelection

    before = given.pop("before")
    before_ms = None if before is None else round(before.replace(tzinfo=timezone.utc).timestamp() * 1000)
    return LetterSelection(ids=frozenset(given.pop("ids")), reason=given.pop("reason"), before_ms=before_ms)


@dead_letters.command("list", short_help="List letters, their fields separated by tabs.")
@selection_options
@store_options
def list_letters(**given: Any) -> None:
    """List letters: identifier, time, reason, size in bytes and topic, separated by tabs."""
    from mqttkit.bridge.dead_letters import select

    selection = _selection(given)
    with _sink(_settings(given)) as sink:
        for stored in select(sink.letters, selection):
            letter = stored.letter
            click.echo(f"{stored.id}\t{_time(stored)}\t{letter.reason}\t{letter.size}\t{letter.topic!r}")


@dead_letters.command(short_help="Show one letter as JSON.")
@click.argument("letter_id")
@store_options
def show(letter_id: str, **given: Any) -> None:
    """Show one letter as JSON. payload_text is the payload as text, with other bytes escaped."""
    with _sink(_settings(given)) as sink:
        stored = sink.letters.get(letter_id)
    if stored is None:
        raise UsageError(f"no dead letter {letter_id!r}", hint="List them: mqttkit bridge dead-letters list")
    text = stored.letter.body.decode("utf-8", "backslashreplace")
    shown = {"id": stored.id, "time": _time(stored), **stored.letter._asdict(), "payload_text": text}
    click.echo(json.dumps(shown, ensure_ascii=False, indent=2))


@dead_letters.command(short_help="Parse letters again.")
@selection_options
@store_options
def retry(**given: Any) -> None:
    """Parse all or the chosen letters again, and store those that are valid now. The others stay.

    Use it after you added a missing tenant or corrected the topic template.
    """
    from mqttkit.bridge.dead_letters import retry as retry_letters
    from mqttkit.bridge.metric import MetricParser

    selection, bridge = _selection(given), _settings(given)
    parser = MetricParser(bridge.topic, payload_limit=bridge.payload_limit)
    with _registry(bridge) as registry, _sink(bridge) as sink:
        sink.open()
        done = retry_letters(sink, parser, registry, selection)
    click.echo(f"stored={done.stored} duplicate={done.duplicate} refused={done.refused}")


@dead_letters.command()
@selection_options
@store_options
def export(**given: Any) -> None:
    """Write letters as JSON lines, with the payload in base64."""
    from mqttkit.bridge.dead_letters import export as export_letters

    selection = _selection(given)
    with _sink(_settings(given)) as sink:
        export_letters(sink.letters, selection, lambda line: click.echo(json.dumps(line, ensure_ascii=False)))


@dead_letters.command()
@selection_options
@click.option("--all", "everything", is_flag=True, help="All of them.")
@store_options
def purge(everything: bool, **given: Any) -> None:
    """Delete the chosen letters, or --all."""
    from mqttkit.bridge.dead_letters import LetterSelection
    from mqttkit.bridge.dead_letters import purge as purge_letters

    selection = _selection(given)
    if everything == (selection != LetterSelection()):
        raise UsageError("choose letters by identifier, --reason or --before, or give --all")
    with _sink(_settings(given)) as sink:
        click.echo(f"removed={purge_letters(sink.letters, selection)}")


def _time(stored: StoredLetter) -> str:
    moment = datetime.fromtimestamp(stored.letter.received_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
