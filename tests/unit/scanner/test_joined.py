"""Several sources as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mqttkit.errors import AdapterMissing
from mqttkit.scanner import Advertisement, Source
from mqttkit.scanner.sources.joined import JoinedSource
from mqttkit.scanner.sources.simulated import SimulatedSource
from tests.support.clients import wait_until


def simulated(seed: int) -> SimulatedSource:
    """Return a source of one device."""
    return SimulatedSource(devices=1, rate=500, seed=seed)


class Broken(SimulatedSource):
    """A source that fails at its start, or later."""

    def __init__(self, *, at_start: bool) -> None:
        super().__init__(devices=1, rate=500, seed=3)
        self._at_start = at_start

    def start(self) -> None:
        """Fail."""
        if self._at_start:
            raise AdapterMissing("no adapter")

    def batches(self) -> Iterator[list[Advertisement]]:
        """Fail after one batch."""
        yield next(super().batches())
        raise AdapterMissing("gone")


def test_advertisements_of_every_source_arrive() -> None:
    """In one iteration, which ends when all of them have ended."""
    sources: list[Source] = [simulated(1), simulated(2)]
    wanted = {next(iter(simulated(seed))).mac_address for seed in (1, 2)}
    found = set()
    with JoinedSource(sources) as joined:
        assert joined.scanning
        for heard in joined:
            found.add(heard.mac_address)
            if found == wanted:
                joined.close()
    assert found == wanted
    assert not joined.scanning


def test_a_source_that_does_not_start_closes_the_others() -> None:
    """No radio stays in use."""
    first = simulated(1)
    with pytest.raises(AdapterMissing), JoinedSource([first, Broken(at_start=True)]):
        pass
    assert not first.scanning


def test_an_error_of_one_source_ends_the_iteration() -> None:
    """In the iterating thread, and the other source can be closed."""
    before = threading.active_count()
    with pytest.raises(AdapterMissing, match="gone"), JoinedSource([simulated(1), Broken(at_start=False)]) as joined:
        list(joined)
    wait_until(lambda: threading.active_count() <= before)


def test_drops_of_all_sources_are_counted() -> None:
    """By cause."""

    class Dropping(SimulatedSource):
        dropped = {"malformed": 2}  # noqa: RUF012

    joined = JoinedSource([Dropping(devices=1, rate=1, seed=1), Dropping(devices=1, rate=1, seed=2)])
    assert joined.dropped == {"malformed": 4}
