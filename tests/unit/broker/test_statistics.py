"""`$SYS` values to statistics."""

from __future__ import annotations

import pytest

from mqttkit.broker.statistics import TOPICS, Statistics, parse
from mqttkit.cli.broker.logs import parse_log_line


def test_each_topic_has_its_field():
    values = {topic: str(number) for number, topic in enumerate(TOPICS.values(), 60)}
    values |= {"version": "mosquitto version 2.0.11", "uptime": "12 seconds"}
    found = parse(values)
    assert (found.version, found.uptime) == ("2.0.11", 12)
    assert found.clients_connected == int(values["clients/connected"])
    assert found.received_per_second == pytest.approx(float(values["load/publish/received/1min"]) / 60, abs=0.001)


def test_topics_that_were_never_published_count_as_nothing():
    assert parse({"uptime": "1 seconds"}) == Statistics(version="unknown", uptime=1)


def test_values_that_are_no_numbers_count_as_nothing():
    assert parse({"uptime": "", "clients/connected": "many"}).clients_connected == 0


def test_rates_are_those_between_two_updates():
    before = Statistics(version="x", uptime=10, packets_received=100)
    now = Statistics(version="x", uptime=14, packets_received=300, packets_sent=2)
    assert now.since(before).packets_received_per_second == 50
    assert now.since(before).packets_sent_per_second == 0.5
    assert now.since(now) == now


@pytest.mark.parametrize(
    ("line", "timestamp", "message"),
    [
        ("2026-01-11T10:30:45: Reloading config.", "2026-01-11T10:30:45", "Reloading config."),
        ("2026-01-11 10:30:45,123 INFO x: y", "2026-01-11 10:30:45,123", "INFO x: y"),
        ("no time", None, "no time"),
    ],
)
def test_a_log_line_is_timestamp_and_message(line: str, timestamp: str | None, message: str):
    assert parse_log_line(line) == {"timestamp": timestamp, "message": message}
