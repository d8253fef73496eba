"""The benchmark measures what it says; small loads, no goals."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import controllers
from tests.benchmarks.figures import Figure


def test_each_measurement_gives_its_figures() -> None:
    """Signing, duplicates, reports, latency, heartbeats."""
    figures = [
        *controllers.sign_and_verify(50),
        *controllers.deduplication(2_000),
        *controllers.reports(200),
        *controllers.latency(20),
        *controllers.heartbeats(5, interval=0.2, seconds=1.0),
    ]
    values = {figure.name: figure.value for figure in figures}
    assert len(values) == len(figures) == 12
    assert all(value > 0 for name, value in values.items() if "memory" not in name), values
    assert values["controllers online in one process"] == 5


@pytest.mark.parametrize(("met", "code"), [(True, 0), (None, 0), (False, 1)])
def test_a_missed_goal_shows_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], met: bool | None, code: int
) -> None:
    """And in the line."""
    monkeypatch.setattr(controllers, "MEASUREMENTS", {"x": lambda: [Figure("x", 1.5, "s", "under 1", met)]})
    assert controllers.main(["x"]) == code
    assert ("MISSED" in capsys.readouterr().out) == (met is False)
    controllers.main(["--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "Python" in lines[0]["machine"]
    assert lines[1]["met"] is met


def test_an_unknown_measurement_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    with pytest.raises(SystemExit) as caught:
        controllers.main(["taste"])
    assert caught.value.code == 2
    assert "no measurement 'taste'" in capsys.readouterr().err
