"""Payloads for the eye: JSON, text or a hex dump; differences; sparklines. Pure.

What comes out is safe on a terminal: see `mqttkit.formats.visible`.
"""

from __future__ import annotations

import difflib
import enum
import json
import math
from collections.abc import Sequence
from typing import TypeGuard, cast

from mqttkit.formats.jsonlines import properties_to_object
from mqttkit.formats.visible import visible, visible_lines
from mqttkit.messages import Message

MAX_BYTES = 64 * 1024
"""Larger payloads are shown up to here."""
MAX_LINES = 400
COUNTERS = frozenset({"timestamp", "time", "ts", "sequence", "seq", "id"})
"""Members of a JSON object that only grow: their sparkline says nothing."""
BARS = "▁▂▃▄▅▆▇█"


class Shape(enum.Enum):
    """How a payload is shown."""

    AUTO = "auto"
    """JSON if it is an object or an array, text if it is UTF-8, otherwise a hex dump."""
    TEXT = "text"
    HEX = "hex"


def payload_lines(payload: bytes, shape: Shape = Shape.AUTO) -> list[str]:
    """Return the lines to show for a payload."""
    if not payload:
        return ["(empty)"]
    part = payload[:MAX_BYTES]
    lines = _decoded(part, shape)
    hidden = len(payload) - len(part)
    more = [f"… {len(lines) - MAX_LINES:,} more lines"] if len(lines) > MAX_LINES else []
    return lines[:MAX_LINES] + more + ([f"… {hidden:,} more bytes"] if hidden else [])


def one_line(payload: bytes, limit: int = 200) -> str:
    """Return the beginning of a payload on one line."""
    return visible(payload[:limit].decode("utf-8", "surrogateescape"))


def difference(before: bytes, after: bytes) -> list[str]:
    """Return the lines that changed from one payload to the next, with - and + in front."""
    lines = list(difflib.unified_diff(payload_lines(before), payload_lines(after), n=0, lineterm=""))
    return [line for line in lines[2:] if not line.startswith("@@")]


def numbers(payload: bytes, limit: int = 3) -> dict[str, float]:
    """Return the numbers in a payload by name: the payload itself as "", or the first numbers of a JSON object."""
    if len(payload) > MAX_BYTES:
        return {}
    value = _json(payload)
    fields = value.items() if isinstance(value, dict) else [("", value)]
    found = {str(name): float(one) for name, one in fields if name not in COUNTERS and _is_number(one)}
    return dict(list(found.items())[:limit])


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last `width` values as bars between their lowest and their highest value."""
    shown = list(values)[-width:] if width > 0 else []
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if low == high:
        return BARS[0] * len(shown)
    scale = (len(BARS) - 1) / (high / 2 - low / 2)  # halves: the difference of two floats may be infinite
    return "".join(BARS[round((value / 2 - low / 2) * scale)] for value in shown)


def property_lines(message: Message) -> list[str]:
    """Return QoS, retain flag and properties of a message, one per line."""
    found = [f"QoS {message.qos}" + (", retained" if message.retain else "")]
    if message.properties is not None:
        for name, value in properties_to_object(message.properties).items():
            pairs = value if name == "user_properties" else [(name.replace("_", " "), value)]
            found += [visible(f"{key}: {text}") for key, text in pairs]
    return found


def _decoded(part: bytes, shape: Shape) -> list[str]:
    if shape is Shape.HEX:
        return _hex_lines(part)
    try:
        text = part.decode()
    except UnicodeDecodeError as error:
        cut = shape is Shape.AUTO and len(part) == MAX_BYTES and error.start > MAX_BYTES - 4
        if shape is Shape.AUTO and not cut:
            return _hex_lines(part)
        text = part.decode("utf-8", "surrogateescape")
    if shape is Shape.AUTO and isinstance(value := _json(part), (dict, list)):
        text = json.dumps(value, ensure_ascii=False, indent=2)
    return [line.expandtabs(4) for line in visible_lines(text).split("\n")]


def _json(payload: bytes) -> object:
    """Return the value of a JSON payload; None if it is not JSON."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def _is_number(value: object) -> TypeGuard[float]:
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(cast(float, value))
    except OverflowError:  # a whole number that no float can hold
        return False


def _hex_lines(data: bytes) -> list[str]:
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:06x}  {row.hex(' '):<47}  {text}")
    return lines
