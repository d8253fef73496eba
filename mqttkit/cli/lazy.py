"""A Click group that imports a command only when it is used."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """The module and name of a command, and its line in the list."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group with a table of commands: `click.group(cls=LazyGroup, entries={...})`.

    A command's module is imported when the command or its --help runs. `other_names` maps names that people
    type by mistake to the command they mean. `help` shows the help of the group or of one command.
    """

    def __init__(
        self,
        *args: Any,
        entries: dict[str, Entry],
        other_names: dict[str, str] | None = None,
        default: str | None = None,
        **attributes: Any,
    ) -> None:
        """With `default`, that command runs if the first argument is not a command."""
        super().__init__(*args, **attributes)
        self.entries = entries
        self.other_names = other_names or {}
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own arguments, with the default command inserted."""
        if args == ["-h"]:
            args = ["--help"]
        return super().parse_args(ctx, self.with_default(args))

    def with_default(self, args: list[str]) -> list[str]:
        """Return the arguments with the name of the default command, if it was omitted."""
        if self.default is None or not args or args[0] in self.entries or args[0] in ("--help", "help"):
            return args
        return [self.default, *args]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        if ctx.resilient_parsing:
            from mqttkit.cli.completion.values import attach

            return attach(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown name, suggest the nearest one."""
        if args[0] == "help" and "help" not in self.entries:
            self._show_topic(ctx, args[1:])
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args[0] not in self.entries and not args[0].startswith("-"):
            from mqttkit.cli.options.help import no_command

            ctx.fail(no_command(ctx, args[0], list(self.entries), self.other_names.get(args[0], "")))
        return super().resolve_command(ctx, args)

    def _show_topic(self, ctx: click.Context, words: list[str]) -> None:
        """Show a topic of the help and end, if the words name one."""
        if ctx.parent is None and len(words) == 1 and words[0] not in self.entries:
            from mqttkit.cli.help_topics import TOPICS

            if words[0] in TOPICS:
                click.echo(TOPICS[words[0]])
                ctx.exit()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])
