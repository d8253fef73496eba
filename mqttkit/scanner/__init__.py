"""Where advertisements come from: sources and their factory."""

from __future__ import annotations

from mqttkit.errors import UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.source import Source
from mqttkit.settings import ScannerSettings

__all__ = ["SOURCES", "Advertisement", "Source", "open_source"]

SOURCES = "auto, bleak, bluepy, simulated or replay:FILE"


def open_source(settings: ScannerSettings) -> Source:
    """Return the source that `settings.source` names, behind the filters that the settings ask for.

    Raise UsageError, RecordingError or, from a radio that is not there, MissingPart.
    """
    from mqttkit.scanner.filters import FilteredSource, Filters

    filters = Filters(settings)
    source = _open_unfiltered(settings)
    return FilteredSource(source, filters) if filters.active else source


def _open_unfiltered(settings: ScannerSettings) -> Source:
    kind, _, argument = settings.source.partition(":")
    if kind == "replay" and argument:
        from mqttkit.scanner.replay_source import ReplaySource

        return ReplaySource(argument, speed=settings.speed, loop=settings.loop)
    if settings.source == "simulated":
        from mqttkit.scanner.simulated_source import SimulatedSource

        return SimulatedSource(devices=settings.devices, rate=settings.rate, seed=settings.seed)
    hint = "A recording is replay:FILE" if kind == "replay" else ""
    raise UsageError(f"no source {settings.source!r}: there are {SOURCES}", hint=hint)
