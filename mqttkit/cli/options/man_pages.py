"""Man pages, made from the help of the commands: `python -m mqttkit.cli.options.man_pages DIRECTORY`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mqttkit import __version__
from mqttkit.cli.options.help import option_groups


def write_pages(command: click.Command, directory: Path) -> list[Path]:
    """Write a page for a command and each command below it; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for context in _contexts(command, None, command.name or ""):
        path = directory / f"{context.command_path.replace(' ', '-')}.1"
        path.write_text(page(context), encoding="utf-8")
        written.append(path)
    return written


def _contexts(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    context = click.Context(command, info_name=name, parent=parent)
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _contexts(found, context, each)


def page(context: click.Context) -> str:
    """Return the page of a command, in the man macros of roff."""
    command, name = context.command, context.command_path.replace(" ", "-")
    paragraphs = [part for part in re.split(r"\n\s*\n", (command.help or "").strip()) if part]
    first = " ".join(paragraphs[0].split()) if paragraphs else ""
    lines = [
        f'.TH "{_text(name.upper())}" "1" "" "mqttkit {__version__}" "mqttkit"',
        *(".SH NAME", rf"{_text(name)} \- {_text(first.rstrip('.'))}"),
        *(".SH SYNOPSIS", f".B {_text(context.command_path)}", _text(" ".join(command.collect_usage_pieces(context)))),
        ".SH DESCRIPTION",
    ]
    examples = [part for part in paragraphs if part.lstrip().startswith("\b")]
    for part in paragraphs:
        if part not in examples:
            lines += [".PP", _text(" ".join(part.split()))]
    for title, records in option_groups(command, context).items():
        lines.append(f".SH {_text(title.upper())}")
        for option, meaning in records:
            lines += [".TP", rf"\fB{_text(option)}\fR", _text(meaning)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        lines += [line for each in command.list_commands(context) for line in _entry(context, each)]
    if examples:
        shown = [_text(line.strip()) for part in examples for line in part.splitlines()[1:]]
        lines += [".SH EXAMPLES", ".nf", *shown, ".fi"]
    return "\n".join([*lines, *_see_also(context), ""])


def _entry(context: click.Context, name: str) -> list[str]:
    """Return the lines of one command of a group."""
    assert isinstance(context.command, click.Group)
    command = context.command.get_command(context, name)
    page_name = f"{context.command_path} {name}".replace(" ", "-")
    return [".TP", rf"\fB{_text(page_name)}\fR(1)", _text(command.get_short_help_str(200) if command else "")]


def _see_also(context: click.Context) -> list[str]:
    parent = context.parent
    return [".SH SEE ALSO", rf"\fB{_text(parent.command_path.replace(' ', '-'))}\fR(1)"] if parent else []


def _text(text: str) -> str:
    """Return text as roff prints it: hyphens as ASCII, no line that begins with a control character."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    from mqttkit.cli import cli

    cli.name = "mqttkit"
    write_pages(cli, Path(sys.argv[1]))
