"""--fail-if, --baseline, --plot and the texts: how a bench is judged and shown."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mqttkit.bench.plan import Plan
from mqttkit.bench.report.conditions import parse_condition, read_baseline
from mqttkit.bench.report.plot import check_plot, write_plot
from mqttkit.bench.report.result import BenchResult, as_text
from mqttkit.errors import MissingPart, UsageError

PLAN = Plan(scenario="sub", topic="t", rate=1000)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p99>20ms", False),
        ("p99>19ms", True),
        ("p99 >= 0.02s", True),
        ("p99>19999us", True),
        ("p99.9>1s", False),
        ("lost>0", False),
        ("lost!=0", False),
        ("lost==0", True),
        ("rate<1e3", False),
        ("rate<=1_000", True),
        ("memory>0", True),
    ],
)
def test_conditions_compare_in_the_unit_given(text: str, fails: bool) -> None:
    """Latencies are kept in milliseconds; a metric that the run does not have fails."""
    metrics = {"p99": 20.0, "p999": 100.0, "lost": 0.0, "rate": 1000.0}
    assert bool(parse_condition(text).failure(metrics)) is fails


def test_failure_says_what_was_found() -> None:
    """Condition, metric, value, unit."""
    assert parse_condition("p99>20ms").failure({"p99": 31.25}) == "p99>20ms: latency p99 is 31.2 ms"


@pytest.mark.parametrize("text", ["", "p99", "p98>1", "p99>20m", "lost>1ms", "p99>x", "p99=>1", "p99>1ms; rm"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    """Wrong metric, operator, number or unit: exit 2."""
    with pytest.raises(UsageError) as caught:
        parse_condition(text)
    assert caught.value.exit_code == 2


def write_baseline(path: Path, **changes: object) -> str:
    """Write what an earlier run would have printed."""
    result = BenchResult(PLAN, metrics={"rate": 100.0, "p99": 10.0, "published": 5.0, "lost": 0.0})
    path.write_text(json.dumps({**result.as_json(), **changes}))
    return str(path)


def test_baseline_finds_what_got_worse(tmp_path: Path) -> None:
    """Better and a little worse are good; what says nothing, or is new, is not compared."""
    baseline = read_baseline(write_baseline(tmp_path / "b.json"), 0.2)
    assert baseline.failures({"rate": 81.0, "p99": 11.9, "published": 1.0, "lost": 0.0}) == []
    assert baseline.failures({"rate": 500.0, "p99": 1.0, "memory": 9e9}) == []
    assert baseline.failures({"rate": 79.0, "p99": 12.5, "lost": 1.0}) == [
        "rate: 79, before 100 messages/s",
        "latency p99: 12.5, before 10 ms",
        "lost: 1, before 0 messages",
    ]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 9, "metrics": {}}'])
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    """Not there, no JSON, another format: exit 2, the file named."""
    path = tmp_path / "b.json"
    path.write_text(content)
    for name in (path, tmp_path / "missing.json"):
        with pytest.raises(UsageError, match=name.name):
            read_baseline(str(name), 0.2)


def test_partial_and_malformed_baselines_are_refused(tmp_path: Path) -> None:
    """A run that did not end is nothing to compare with."""
    with pytest.raises(UsageError, match="partial"):
        read_baseline(write_baseline(tmp_path / "b.json", partial="broker gone"), 0.2)
    with pytest.raises(UsageError, match="not numbers"):
        read_baseline(write_baseline(tmp_path / "b.json", metrics={"rate": "fast"}), 0.2)


def test_svg_draws_every_point(tmp_path: Path) -> None:
    """The picture is well-formed XML with a line a series, inside its bounds."""
    points = [{"seconds": n / 4, "rate": 1000.0 + n, "p50": 1.0, "p99": 2.0 + n, "max": 9.0} for n in range(8)]
    path = tmp_path / "p.svg"
    check_plot(str(path))
    write_plot(BenchResult(PLAN, points=points), str(path))
    root = ElementTree.parse(path).getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert len(lines) == 3
    for line in lines:
        places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert len(places) == len(points)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_svg_of_a_run_without_messages_is_empty_but_whole(tmp_path: Path) -> None:
    """Nothing received is no division by zero, and no line."""
    write_plot(BenchResult(PLAN), str(tmp_path / "p.svg"))
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [line.attrib["points"] for line in lines] == [""] * 3


def test_plot_is_checked_before_any_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong suffix, no directory: 2; PNG without matplotlib: 7 and how to get it."""
    for name in ("p.gif", "missing/p.svg"):
        with pytest.raises(UsageError):
            check_plot(str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPart, match="pip install"):
        check_plot(str(tmp_path / "p.png"))


def test_png_is_written_where_matplotlib_is_installed(tmp_path: Path) -> None:
    """The file is a PNG."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "p.png"
    write_plot(BenchResult(PLAN, points=[{"seconds": 1.0, "rate": 2.0, "p50": 1.0, "p99": 2.0, "max": 3.0}]), str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_text_names_what_is_partial() -> None:
    """Each metric with its unit, notes, and the mark of a partial result."""
    result = BenchResult(PLAN, metrics={"rate": 12_345.6, "p99": 0.25}, notes=["mind the gap"], partial="broker gone")
    assert as_text(result) == [
        "rate               12,346 messages/s",
        "latency p99          0.25 ms",
        "note: mind the gap",
        "PARTIAL: broker gone",
    ]
