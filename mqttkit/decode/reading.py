"""The value model that every decoder returns. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mqttkit.scanner.advertisement import Advertisement


class Value(NamedTuple):
    """One value of a device."""

    quantity: str
    """Such as `temperature`; unique within a reading."""
    value: float | int | str | bool
    """A bool is a binary sensor: True is on, open or detected."""
    unit: str | None = None
    """Such as `°C`; None for text, states and plain numbers."""
    device_class: str | None = None
    """Home Assistant's device class, if there is one."""


class Reading(NamedTuple):
    """What a decoder read in one advertisement. Without values the device is known, and reports nothing new."""

    decoder: str
    values: tuple[Value, ...]
    name: str | None = None
    model: str | None = None
    manufacturer: str | None = None
    needs: str = ""
    """What is missing to decode the values, such as a bind key; empty if nothing is."""

    def __str__(self) -> str:
        """Return `temperature 21.5 °C, humidity 40 %`."""
        parts = [f"{value.quantity} {value.value}{f' {value.unit}' if value.unit else ''}" for value in self.values]
        return ", ".join(parts) or (f"needs {self.needs}" if self.needs else "")


Decode = Callable[[Advertisement], Reading | None]
"""Decodes the advertisements of one device; returns None if it does not know them. It may keep state."""
