"""What results look like, in a pipe and on a terminal."""

from __future__ import annotations

import json

import pytest

from mqttkit.cli.output import render

ROWS = [["a/b", 1], ["longer/name", 22]]


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are parted by two blanks, and no line ends in blanks."""
    render.print_table(["topic", "count"], ROWS)
    assert capsys.readouterr().out == "topic        count\na/b          1\nlonger/name  22\n"


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    """No rows are no error."""
    render.print_table(["topic"], [])
    assert capsys.readouterr().out == "topic\n"


def test_a_table_on_a_terminal_is_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are text, not rich's markup."""
    monkeypatch.setattr(render, "on_terminal", lambda: True)
    render.print_table(["topic", "count"], [["[red]x[/red]", 1]])
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown and "┃" in shown


def test_json_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Text that is not ASCII stays readable."""
    render.print_json({"é": [1]})
    assert capsys.readouterr().out == '{"é": [1]}\n'


def test_json_on_a_terminal_is_indented(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays valid JSON."""
    monkeypatch.setattr(render, "on_terminal", lambda: True)
    render.print_json({"é": [1]})
    shown = capsys.readouterr().out
    assert shown.count("\n") > 2 and json.loads(shown) == {"é": [1]}


def test_a_narrow_terminal_drops_optional_columns_in_their_order() -> None:
    columns, lines = ("device", "rssi", "about"), [["AA:BB:CC:DD:EE:FF", "-70", "x" * 30]]
    assert render.fitting_widths(columns, lines, ("about", "rssi"), 80) == {0: 17, 1: 4, 2: 30}
    assert render.fitting_widths(columns, lines, ("about", "rssi"), 40) == {0: 17, 1: 4}
    assert render.fitting_widths(columns, lines, ("about", "rssi"), 21) == {0: 17}


def test_the_widest_column_gives_way_first() -> None:
    """Numbers beside a long text stay whole."""
    assert render.fitting_widths(("topic", "bytes"), [["x" * 100, "1234567"]], (), 60) == {0: 46, 1: 7}
