"""Options that are settings: what the user gives reaches the command through its validated settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

Command = TypeVar("Command", bound=Callable[..., Any])

_META = "mqttkit.settings"


class Given(NamedTuple):
    """A value on the command line."""

    value: object
    option: str
    """Name of the option, for errors."""


def setting_option(
    *names: str, path: str = "", expand: Callable[[Any], Mapping[str, object]] | None = None, **attributes: Any
) -> Callable[[Command], Command]:
    """Add an option for the setting at the dotted `path`; the command gets no argument for it.

    `expand` replaces `path` if a value sets something else than one setting: it returns values by dotted path.
    They are validated like those of the settings file; errors name the option.
    """

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
            value = list(value) if isinstance(value, tuple) else value
            values = expand(value) if expand else {path: value}
            shown = next((name for name in names if name.startswith("--")), names[0])
            context.meta.setdefault(_META, {}).update({path: Given(value, shown) for path, value in values.items()})

    return click.option(*names, expose_value=False, callback=keep, **attributes)


def file_option(*names: str, path: str, help: str) -> Callable[[Command], Command]:
    """Add an option that takes the name of a file."""
    return setting_option(*names, path=path, metavar="FILE", type=click.Path(), help=help)


def given_settings() -> dict[str, Given]:
    """Return the settings that the running command's options give, by dotted path."""
    found: dict[str, Given] = click.get_current_context().meta.get(_META, {})
    return dict(found)


def add_options(command: Command, options: Iterable[Callable[[Any], Any]]) -> Command:
    """Add options to a command; its help lists them in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command
