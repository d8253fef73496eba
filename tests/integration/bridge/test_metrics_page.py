"""What the pages tell operators to watch is what bridge and worker serve."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.worker.stream_worker import StreamWorker, WorkerSettings
from mqttkit.settings import BridgeSettings, SparkplugSettings
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import ask_health, metric_topic, publish_numbers, publisher, wait_until
from tests.support.brokers import free_port, mosquitto
from tests.support.pages import DOCS
from tests.support.sinks import redis_case
from tests.support.workers import running_worker

NAMES = re.compile(r"\bmqttkit_bridge_[a-z0-9_]+")
FAMILIES = re.compile(r"^# TYPE (\S+)", re.MULTILINE)


def families(port: int) -> set[str]:
    """The names on the page for Prometheus."""
    return set(FAMILIES.findall(ask_health(port, "/metrics")[1]))


def largest_bucket(port: int, histogram: str) -> float:
    """How many values the histogram has counted; 0 if it is not there."""
    page = ask_health(port, "/metrics")[1]
    found = re.search(rf'^mqttkit_bridge_{histogram}_bucket{{le="\+Inf"}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_every_name_in_the_documentation_is_served(
    tmp_path: Path, server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a member of a group, by a bridge with Sparkplug, or by a worker."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    named = {name for page in DOCS.rglob("*.md") for name in NAMES.findall(page.read_text())}
    assert len(named) > 10
    one, two, three = (free_port() for _ in range(3))
    with mosquitto(tmp_path / "mosquitto") as broker, publisher(broker.port) as client:
        member = bridge_settings(tmp_path / "one", broker.port, group="g", health_port=one)
        sparkplug = SparkplugSettings(enabled=True)
        with (
            running_bridge(member),
            running_bridge(bridge_settings(tmp_path / "two", broker.port, sparkplug=sparkplug, health_port=two)),
        ):
            client.publish(metric_topic(), b"[", qos=1, wait=60)
            publish_numbers(client, range(1))
            wait_until(lambda: "mqttkit_bridge_dead_letters_total" in families(one))
            for histogram in ("delay_seconds", "commit_duration_seconds"):
                wait_until(lambda: largest_bucket(one, histogram) >= 1)  # noqa: B023 - called now
            served = families(one) | families(two)
    redis = server("redis")
    redis_case(redis, "redis")
    settings = BridgeSettings(sink=f"sqlite:{tmp_path / 'worker.db'}", health_port=three)
    monkeypatch.setattr("mqttkit.bridge.worker.stream_worker.TRIM_SECONDS", 0.0)
    with running_worker(StreamWorker(WorkerSettings(source=redis.url, bridge=settings))):
        wait_until(lambda: "mqttkit_bridge_lag_entries" in families(three))
        served |= families(three)
    assert {name for name in named if not any(_is(name, family) for family in served)} == set()


def _is(name: str, family: str) -> bool:
    """A name that ends with an underscore stands for all that begin with it."""
    return family.startswith(name) if name.endswith("_") else family == name
