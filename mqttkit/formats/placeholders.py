"""`{{n}}`, `{{now}}` and `{{random}}` in a message that is published several times."""

from __future__ import annotations

import random
import re
from datetime import datetime, timezone

_PLACEHOLDER = re.compile(rb"\{\{(n|now|random)\}\}")


def fill(text: bytes, number: int) -> bytes:
    """Return the text with its placeholders replaced; other braces stay.

    `n` is the number of the message, counted from 1; `now` the time in UTC with milliseconds; `random` a number from
    0 to 1 with six decimals, another one at each place.
    """

    def value(match: re.Match[bytes]) -> bytes:
        if match[1] == b"n":
            return str(number).encode()
        if match[1] == b"now":
            return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        return f"{random.random():.6f}".encode()  # noqa: S311  not a secret

    return _PLACEHOLDER.sub(value, text)
