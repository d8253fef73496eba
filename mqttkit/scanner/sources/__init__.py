"""Sources of advertisements: one file for each, and `open_source`."""

from __future__ import annotations

import importlib.util

from mqttkit.deferred_imports import BLEAK, deferred_imports
from mqttkit.errors import MissingPart, UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.sources.machine import Machine
from mqttkit.scanner.sources.protocol import Source
from mqttkit.settings import ScannerSettings

__all__ = ["SOURCES", "Advertisement", "Source", "choose_radio", "open_source"]

SOURCES = "auto, bleak, bluepy, simulated or replay:FILE"


def open_source(settings: ScannerSettings) -> Source:
    """Return the source that `settings.source` names, with the filters of the settings.

    Raise UsageError, RecordingError, or MissingPart if there is no radio.
    """
    from mqttkit.scanner.filters import Filters
    from mqttkit.scanner.sources.filtered import FilteredSource

    filters = Filters(settings)
    source = _open_unfiltered(settings)
    return FilteredSource(source, filters) if filters.active else source


def _open_unfiltered(settings: ScannerSettings) -> Source:
    kind, _, argument = settings.source.partition(":")
    if kind == "replay" and argument:
        from mqttkit.scanner.sources.replay import ReplaySource

        return ReplaySource(argument, speed=settings.speed, loop=settings.loop, strict=settings.strict)
    if settings.source == "simulated":
        from mqttkit.scanner.sources.simulated import SimulatedSource

        return SimulatedSource(devices=settings.devices, rate=settings.rate, seed=settings.seed)
    if settings.source in ("auto", *_RADIOS):
        return _open_radios(settings)
    hint = "A recording is replay:FILE" if kind == "replay" else ""
    raise UsageError(f"unknown source {settings.source!r}: choose {SOURCES}", hint=hint)


def _open_radios(settings: ScannerSettings) -> Source:
    """Return a source for each adapter, joined if there are several."""
    radios = [_open_radio(settings, adapter) for adapter in dict.fromkeys(settings.adapter) or (None,)]
    if len(radios) == 1:
        return radios[0]
    from mqttkit.scanner.sources.joined import JoinedSource

    return JoinedSource(radios)


def _open_radio(settings: ScannerSettings, adapter: str | None) -> Source:
    kind = settings.source
    if kind == "auto":
        kind = choose_radio(Machine(), adapter, wait=settings.wait_for_radio)
    return _RADIOS[kind](settings, adapter)


def _bleak(settings: ScannerSettings, adapter: str | None) -> Source:
    try:
        with deferred_imports(BLEAK):
            from mqttkit.scanner.sources.bleak import BleakSource
    except ImportError as error:
        raise MissingPart(f"bleak is not installed: {error}", hint=_INSTALL["bleak"]) from error
    return BleakSource(adapter=adapter, passive=settings.passive, wait=settings.wait_for_radio)


def _bluepy(settings: ScannerSettings, adapter: str | None) -> Source:
    try:
        from mqttkit.scanner.sources.bluepy import BluepySource
    except ImportError as error:
        raise MissingPart(f"bluepy is not installed: {error}", hint=_INSTALL["bluepy"]) from error
    return BluepySource(adapter=adapter, active=settings.active, wait=settings.wait_for_radio)


_RADIOS = {"bleak": _bleak, "bluepy": _bluepy}

_INSTALL = {
    "bleak": "Try: pip install 'mqttkit[bleak]'",
    "bluepy": "Try: apt-get install libglib2.0-dev pkg-config && pip install 'mqttkit[bluepy]'",
}


def choose_radio(machine: Machine, adapter: str | None, *, wait: bool = False) -> str:
    """Return `bleak`, or `bluepy` if bleak or the D-Bus that bleak needs is missing; raise MissingPart.

    With `wait` the adapter and D-Bus may still be missing.
    """
    if not wait:
        machine.need_adapter(adapter)
    if (wait or machine.has_dbus()) and importlib.util.find_spec("bleak"):
        return "bleak"
    if importlib.util.find_spec("bluepy"):
        return "bluepy"
    raise MissingPart("neither bleak nor bluepy is installed", hint=_INSTALL["bleak"])
