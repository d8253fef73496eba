"""Where advertisements come from: the Source protocol and its factory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Protocol

from mqttkit.errors import UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.settings import ScannerSettings

SOURCES = "auto, bleak, bluepy, simulated or replay:FILE"


class Source(Protocol):
    """A blocking iterator of advertisements, and a context manager; one thread iterates, once.

    Entering starts the scan and raises what is wrong with it; leaving closes it.
    """

    @property
    def scanning(self) -> bool:
        """False while the source is closed, at its end, or its radio is away."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Advertisements not passed on so far, by cause; any thread may read it."""

    def close(self) -> None:
        """End the iteration and release everything; any thread or signal handler may call it, and again."""

    def __enter__(self) -> Source: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __iter__(self) -> Iterator[Advertisement]: ...


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
