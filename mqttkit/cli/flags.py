"""Options that are settings: they reach the command through its settings, not as arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_META = "mqttkit.flags"


def flag_option(name: str, path: str, **attributes: Any) -> Callable[[Command], Command]:
    """Add an option for the setting at the dotted path; `given_flags` has it where it was given."""

    def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False, ()):
            flags = context.meta.setdefault(_META, {})
            flags[path] = list(value) if isinstance(value, tuple) else value

    return click.option(name, expose_value=False, callback=keep, **attributes)


def given_flags() -> dict[str, object]:
    """Return the options of the running command that were given, by their dotted paths in the settings."""
    found: dict[str, object] = click.get_current_context().meta.get(_META, {})
    return dict(found)
