"""Numbers on the command line: what the help calls them, and errors that say what is expected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[float]
else:
    ParamType = click.ParamType  # not generic before Click 8.3


class Number(ParamType):
    """A number from `low` to `high`; `name` is what the help shows, such as SECONDS."""

    def __init__(
        self, name: str, *, low: float = -math.inf, high: float = math.inf, above: bool = False, whole: bool = False
    ) -> None:
        """`above` excludes `low` itself; `whole` allows whole numbers only."""
        self.name = name
        self.low, self.high, self.above, self.whole = low, high, above, whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or end with a usage error."""
        try:
            number: float = int(value) if self.whole else float(value)
        except ValueError:
            number = math.nan
        low_enough = number > self.low if self.above else number >= self.low
        if not (low_enough and number <= self.high and math.isfinite(number)):
            self.fail(f"must be {self.expected}, got {str(value)!r}.", param, ctx)
        return number

    @property
    def expected(self) -> str:
        """The values allowed, in words."""
        kind = "a whole number" if self.whole else "a number"
        if math.isfinite(self.high):
            return f"{kind} from {self.low:g} to {self.high:.10g}"
        if math.isfinite(self.low):
            return f"{kind} greater than {self.low:g}" if self.above else f"{kind}, {self.low:g} or more"
        return kind


PORT = Number("PORT", low=1, high=65_535, whole=True)
QOS = Number("QOS", low=0, high=2, whole=True)
COUNT = Number("N", low=1, whole=True)
SEED = Number("N", whole=True)
SECONDS = Number("SECONDS", low=0)
SOME_SECONDS = Number("SECONDS", low=0, above=True)
LONG_SECONDS = Number("SECONDS", low=0, high=4_294_967_295, whole=True)
"""What MQTT sends in four bytes."""
