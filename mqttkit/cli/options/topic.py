"""Topics on the command line: a URL in the place of a topic is a mistake."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[str]
else:
    ParamType = click.ParamType  # not generic before Click 8.3

_BROKER_URL = re.compile(r"(mqtts?|wss?|tcp|ssl)://", re.IGNORECASE)


class Topic(ParamType):
    """A topic name or filter, which the client checks later."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the topic; end with a usage error, which does not quote a password, if it is the URL of a broker."""
        text = str(value)
        if _BROKER_URL.match(text):
            raise click.UsageError("this is a URL, not a topic. Give the URL of a broker with -L", ctx)
        return text


TOPIC = Topic()
