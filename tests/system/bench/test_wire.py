"""`make bench-wire`: bare peers count what each client sends and prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.wire.programs import WireBench
from tests.benchmarks.wire.rounds import figures, measure, report
from tests.support.brokers import need

pytestmark = pytest.mark.system


def test_every_client_does_the_whole_task(tmp_path: Path) -> None:
    """At QoS 0 each message is counted; at QoS 1 mqttkit ends with every message acknowledged. Goals are judged."""
    for program in ("mosquitto_pub", "mosquitto_sub"):
        need(program)
    runs = measure(WireBench(tmp_path, 283), 1, 0.005, lambda _line: None)
    counts = {name: each[0].count for name, each in runs.items()}
    assert counts.pop("pub 1 mosquitto") <= 1_000
    assert counts.pop("pub 1 mqttkit") == 1_000
    assert counts.pop("publish") == 2_500
    assert set(counts.values()) == {5_000}
    assert [figure.met is not None for figure in figures(runs)] == [True] * 5
    assert "| `mqttkit sub -v -C N > file` | 5,000 |" in report(runs, size=283)
