"""Figures in few characters: ages, rates, sizes; and texts that fit a width. Pure."""

from __future__ import annotations


def age(seconds: float) -> str:
    """Return an age in at most four characters, such as `12s`, `3m`, `5h`, `2d`."""
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "m"), (360_000, 3600, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) / unit:.0f}{name}"
    return f"{seconds / 86_400:.0f}d"


def rate(per_second: float) -> str:
    """Return a rate in at most five characters or so: more digits for small numbers."""
    if per_second == 0:
        return "0"
    if per_second < 0.095:
        return f"{per_second:.2f}"
    return f"{per_second:.1f}" if per_second < 99.95 else f"{per_second:,.0f}"


def size(count: float) -> str:
    """Return a number of bytes in at most five characters or so, such as `512`, `1.5K`, `20M`."""
    if count < 1000:
        return f"{count:.0f}"
    for unit in "KMGT":
        count /= 1024
        if count < 1000 or unit == "T":
            return f"{count:.1f}{unit}" if count < 9.95 else f"{count:.0f}{unit}"
    raise AssertionError


def shorten(text: str, width: int) -> str:
    """Return the part of a text that fits into `width` cells of a terminal; `…` marks the cut."""
    if text.isascii():
        return text if len(text) <= width else text[: max(0, width - 1)].rstrip() + "…"
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def fit(text: str, width: int) -> str:
    """Return a text with exactly `width` cells of a terminal: cut, or with spaces at its end."""
    if text.isascii():
        return text[:width].ljust(width)
    from rich.cells import set_cell_size

    return set_cell_size(text, width)
