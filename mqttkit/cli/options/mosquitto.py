"""Options of mosquitto_pub and mosquitto_sub that Click has no form for: -D TYPE PROPERTY VALUE, and -o FILE."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import click

from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.properties import TYPES, property_words
from mqttkit.errors import UsageError


class MosquittoCommand(GroupedCommand):
    """A command that takes -D and -o as mosquitto's clients do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace -D and -o with the options that they stand for."""
        return super().parse_args(ctx, self._with_files(self._replaced(args)))

    def further_options(self) -> dict[str, list[tuple[str, str]]]:
        """Return -D and -o."""
        return {
            "As in mosquitto's clients": [
                ("-D TYPE PROPERTY VALUE", f"An MQTT 5 property; TYPE is {', '.join(TYPES)}."),
                ("-o FILE", "Read options from FILE, one per line; options given here override them."),
            ]
        }

    def _with_files(self, args: list[str]) -> list[str]:
        """Put the options of each -o FILE in front, without those that the command line gives itself."""
        rest, files = [], []
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word in ("-o", "--options-file"):
                files.append(next(words, ""))
            else:
                rest.append(word)
        found: list[str] = []
        for name in files:
            for option, value in read_options(name):
                if not self._gives(rest, option):
                    found += self._replaced([option, *_words(option, value)])
        return found + rest

    def _replaced(self, args: list[str]) -> list[str]:
        return replace_properties(args, {name for param in self.params for name in param.opts})

    def _gives(self, args: list[str], option: str) -> bool:
        """Return whether `args` contain this option under any of its names."""
        names = next((param.opts for param in self.params if option in param.opts), [option])
        long = tuple(f"{name}=" for name in names if name.startswith("--"))
        short = tuple(name for name in names if not name.startswith("--"))
        return any(word in names or word.startswith((*long, *short)) for word in args)


def replace_properties(args: list[str], options: Container[str]) -> list[str]:
    """Return the arguments with an option of mqttkit in place of each -D TYPE PROPERTY VALUE.

    Raise UsageError for a property whose option is not among the command's `options`.
    """
    found: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            found += [word, *words]
        elif word in ("-D", "--property"):
            kind, name = next(words, ""), next(words, "")
            values = [
                value for _ in range(2 if name == "user-property" else 1) if (value := next(words, None)) is not None
            ]
            replaced = property_words(kind.lower(), name.lower(), values)
            if replaced and replaced[0] not in options:
                raise UsageError(f"-D {kind} {name}: this command does not take it")
            found += replaced
        else:
            found.append(word)
    return found


def _words(option: str, value: str | None) -> list[str]:
    """Return the arguments of an option in a file: -D has three or four, any other at most one."""
    if value is None or option not in ("-D", "--property"):
        return [] if value is None else [value]
    return value.split(None, 3 if value.split()[1:2] == ["user-property"] else 2)


def read_options(name: str) -> list[tuple[str, str | None]]:
    """Return option and value of each line of a file; blank lines and lines that begin with # count for nothing."""
    try:
        lines = Path(name).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"-o: cannot read {name or 'a file without a name'}: {error}") from error
    found: list[tuple[str, str | None]] = []
    for number, line in enumerate(lines, 1):
        option, blank, value = line.strip().partition(" ")
        if not option or option.startswith("#"):
            continue
        if not option.startswith("-"):
            raise UsageError(f"{name}:{number}: a line is an option and its value, got {option!r}")
        found.append((option, value.strip() if blank else None))
    return found
