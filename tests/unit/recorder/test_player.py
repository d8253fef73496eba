"""How a recording is played: names, lateness, times."""

from __future__ import annotations

import pytest

from mqttkit.errors import UsageError
from mqttkit.recorder.lines import Header
from mqttkit.recorder.player import Lateness, TopicMap
from mqttkit.recorder.recording import parse_offset

HEADER = Header(1_700_000_000_000_000_000, 0, "localhost:1883", 5, ("#",), 2)


@pytest.mark.parametrize(
    ("text", "topic", "expected"),
    [
        ("site/(.*)=test/$1", "site/a/b", "test/a/b"),
        ("site/(.*)=test/$1", "other/a", None),
        ("site=test", "site/a", None),
        ("(.*)/(.*)=$2/$1", "a/b", "b/a"),
        (r"a=b\1", "a", r"b\1"),
    ],
)
def test_a_map_renames_topics_that_match_as_a_whole(text: str, topic: str, expected: str | None) -> None:
    """$1 to $9 are the groups; a backslash means nothing."""
    assert TopicMap.parse(text).apply(topic) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("site", "not PATTERN=REPLACEMENT"),
        ("=x", "not PATTERN=REPLACEMENT"),
        ("a=", "not PATTERN=REPLACEMENT"),
        ("(=x", "not a regular expression"),
        ("a=$1", "has 0 groups"),
    ],
)
def test_a_map_that_cannot_work_is_a_usage_error(text: str, complaint: str) -> None:
    """It says what is wrong."""
    with pytest.raises(UsageError, match=complaint):
        TopicMap.parse(text)


def test_lateness_keeps_quantiles_within_two_per_cent() -> None:
    """Memory is bounded by the number of buckets, not of messages."""
    late = Lateness()
    for number in range(1, 1001):
        late.add(number / 1000, 1)
    assert late.quantile(0.5) == pytest.approx(0.5, rel=0.03)
    assert late.quantile(0.99) == pytest.approx(0.99, rel=0.03)
    assert late.quantile(1.0) == late.maximum == 1.0


def test_lateness_weighs_by_messages() -> None:
    """A block of 99 on time and one message late."""
    late = Lateness()
    late.add(0.0, 99)
    late.add(2.0, 1)
    assert late.quantile(0.5) < 0.001
    assert late.quantile(1.0) == 2.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1:30", 90.0), ("1:00:00.5", 3600.5), ("2023-11-14T22:13:30Z", 10.0)],
)
def test_a_time_in_a_recording(text: str, seconds: float) -> None:
    """Seconds, minutes, hours after the start, or a moment with its date."""
    assert parse_offset(text, HEADER) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-5", "1:x", "2023-11-14T22:13:10Z", "inf", "nan"])
def test_what_is_not_a_time_in_it_is_a_usage_error(text: str) -> None:
    """A moment before its start too."""
    with pytest.raises(UsageError, match="not a time in the recording"):
        parse_offset(text, HEADER)
