"""Metrics as lines: escaped so that a server reads exactly what was meant, or refused."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.bridge.sinks.remote.influx import InfluxDestination
from mqttkit.bridge.sinks.remote.line_protocol import MAX_LINE, join_series, quoted, series_of
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.errors import SinkRefused, UsageError
from tests.support.sinks import metric

ADDRESS = "influx://127.0.0.1:1/m"


def lines_of(*metrics: object) -> list[str]:
    return InfluxDestination(ADDRESS, SinkOptions()).encode(metrics).decode().splitlines()  # type: ignore[arg-type]


def test_line_has_sorted_tags_and_both_fields() -> None:
    """A metric becomes measurement, tags, value, dedupe_id and time; null and empty tags are left out."""
    tags = json.dumps({"unit": "°C", "a b": "x,y=z", "ok": True, "n": 1.5, "none": None, "empty": ""})
    (line,) = lines_of(metric(21.5, 'say "x\\y"')._replace(tags=tags))
    series, fields, stamp = re.split(r"(?<!\\) (?=value|\d+$)", line)
    assert series == f"t,a\\ b=x\\,y\\=z,agent_id=a,n=1.5,ok=true,tenant_id={metric(1).tenant_id},unit=°C"
    assert fields == 'value=21.5,dedupe_id="say \\"x\\\\y\\""'
    assert stamp.startswith("1700000000123")
    assert len(stamp) == 19


@pytest.mark.parametrize("name", ["tenant_id", "time", "value", "_field", "", "line\nbreak", "end\\", "a\\ b"])
def test_tag_that_a_server_would_misread_is_refused(name: str) -> None:
    """As a name; as a value too if it is the characters that are wrong."""
    with pytest.raises(SinkRefused):
        series_of(metric(1)._replace(tags=json.dumps({name: "x"})))
    if set(name) & set("\n\\"):
        with pytest.raises(SinkRefused, match="tag 'x'"):
            series_of(metric(1)._replace(tags=json.dumps({"x": name})))


def test_line_that_is_too_long_is_refused() -> None:
    """The limit counts bytes."""
    with pytest.raises(SinkRefused, match=str(MAX_LINE)):
        lines_of(metric(1)._replace(tags=json.dumps({"x": "é" * (MAX_LINE // 2)})))


def test_metrics_of_one_millisecond_are_different_points() -> None:
    """Other dedupe_ids and missing ones get other nanoseconds; the same dedupe_id always gets the same."""
    batch = [metric(1, "x"), metric(1, "y"), metric(1), metric(1), metric(1, "z")]
    stamps = [int(line.split(" ")[-1]) for line in lines_of(*batch)]
    assert len(set(stamps)) == 5
    assert {stamp // 1_000_000 for stamp in stamps} == {1_700_000_000_123}
    assert lines_of(metric(2, "y"))[0].split(" ")[-1] == str(stamps[1])


def test_metrics_of_a_refused_batch_keep_their_lines() -> None:
    """The halves of a batch that was stored in part replace its points instead of adding others."""
    destination = InfluxDestination(ADDRESS, SinkOptions())
    batch = [metric(number) for number in range(8)]
    whole = destination.encode(batch).splitlines()
    assert destination.encode(batch[4:]).splitlines() == whole[4:]
    assert destination.encode(batch[:4]).splitlines() == whole[:4]
    assert destination.encode([metric(1)]).splitlines()[0] not in whole


@given(st.dictionaries(st.text('ab,= \\é"', min_size=1, max_size=5), st.text('ab,= \\é"', max_size=5), max_size=4))
def test_series_is_read_back_as_it_was_written(tags: dict[str, str]) -> None:
    """A reader that follows the specification finds the same names and values, whatever they contain."""
    try:
        series = series_of(metric(1)._replace(tags=json.dumps(tags)))
    except SinkRefused:
        assert any("\\" in part for pair in tags.items() for part in pair)
        return
    measurement, *pairs = _split(series, ",")
    found = dict(_unescaped(pair) for pair in pairs)
    assert measurement == "t"
    assert found == {"agent_id": "a", "tenant_id": metric(1).tenant_id, **{k: v for k, v in tags.items() if v}}
    assert join_series("t", found) == series


def _split(text: str, at: str) -> list[str]:
    return re.split(rf"(?<!\\){at}", text)


def _unescaped(pair: str) -> tuple[str, str]:
    name, value = _split(pair, "=")
    plain = [re.sub(r"\\([,= ])", r"\1", part) for part in (name, value)]
    return plain[0], plain[1]


def test_quotes_and_backslashes_in_a_string_field() -> None:
    """Both are escaped."""
    assert quoted('a"b\\') == '"a\\"b\\\\"'


@pytest.mark.parametrize("rest", ["/a/b", "/m?x=1", "/m?org=o&bucket=b", "/?bucket=b"])
def test_address_without_one_database_is_an_error_of_usage(rest: str) -> None:
    """The error shows both forms."""
    with pytest.raises(UsageError, match="neither a database nor org and bucket"):
        InfluxDestination(f"influx://h{rest}", SinkOptions())
