"""The value of one Sparkplug metric as a number, by its datatype. Pure."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mqttkit.bridge.metric import MetricRefusal, Refusal


class MetricValue(NamedTuple):
    """A value as the bridge stores it."""

    value: float
    text: str | None = None
    """A string has the value 1, and its text becomes a tag."""


_INTEGERS = {1: (8, True), 2: (16, True), 3: (32, True), 4: (64, True)} | {
    5: (8, False),
    6: (16, False),
    7: (32, False),
    8: (64, False),
}
"""Bits, and whether the integer has a sign, by datatype."""
_FLOATS = (9, 10)
_BOOLEAN, _DATE_TIME = 11, 13
_TEXTS = (12, 14, 15)
_EXACT = 2**53
_NUMBER_FIELDS = ("int_value", "long_value")
_OTHER = {16: "DataSet", 17: "Bytes", 18: "File", 19: "Template"}
_ARRAYS = range(22, 35)


def read_value(metric: Any, datatype: int) -> MetricValue:
    """Return the value of a metric; raise Refusal for one that is not a number, a boolean or text."""
    field = metric.WhichOneof("value")
    if field is None:
        raise Refusal(MetricRefusal.VALUE_MISSING, "no value, and not null")
    given = getattr(metric, field)
    if datatype in _INTEGERS and field in _NUMBER_FIELDS:
        return MetricValue(_exact(_integer(given, *_INTEGERS[datatype])))
    if datatype in _FLOATS and field in ("float_value", "double_value"):
        if not math.isfinite(given):
            raise Refusal(MetricRefusal.VALUE_NOT_FINITE, f"value is {given}")
        return MetricValue(given)
    if datatype == _BOOLEAN and field == "boolean_value":
        return MetricValue(1.0 if given else 0.0)
    if datatype == _DATE_TIME and field == "long_value":
        return MetricValue(_exact(_integer(given, 64, True)))
    if datatype in _TEXTS and field == "string_value":
        return MetricValue(1.0, decode_text(given))
    raise Refusal(MetricRefusal.SPARKPLUG_TYPE, f"{_type_name(datatype)} in {field} is not a number or text")


def decode_text(given: bytes) -> str:
    """Return text; raise Refusal unless it is UTF-8."""
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise Refusal(MetricRefusal.SPARKPLUG_PAYLOAD, f"text is not UTF-8 at byte {error.start}") from None


def _integer(given: int, bits: int, signed: bool) -> int:
    """Return an integer of so many bits. Libraries extend a negative one to 32 or 64 bits, or not at all."""
    if not signed:
        if given >> bits:
            raise Refusal(MetricRefusal.SPARKPLUG_TYPE, f"{given} does not fit in {bits} bits")
        return given
    for width in (bits, 32, 64):
        if given >> width == 0 and width >= bits:
            value = given - (1 << width) if given >> (width - 1) else given
            if -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                return value
    raise Refusal(MetricRefusal.SPARKPLUG_TYPE, f"{given} does not fit in {bits} bits")


def _exact(value: int) -> float:
    if abs(value) > _EXACT and int(float(value)) != value:
        raise Refusal(MetricRefusal.VALUE_PRECISION, f"a double cannot hold {value}")
    return float(value)


def _type_name(datatype: int) -> str:
    return _OTHER.get(datatype) or ("an array" if datatype in _ARRAYS else f"datatype {datatype}")
