"""Service manager, memory, clocks and the metrics page."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mqttkit.bridge.flow.histogram import Histogram
from mqttkit.bridge.observe.health import Sample, render_metrics
from mqttkit.bridge.observe.resource_watch import CertificateWatch, ClockWatch, MemoryWatch
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.settings import MemorySettings, TlsSettings


def test_watchdog_is_fed_by_progress_only(tmp_path: Path) -> None:
    """READY once; WATCHDOG only when the progress changed since the last beat."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(address)})
        notifier.ready("up")
        notifier.ready("up")
        for progress in (1, 1, 2):
            notifier.beat(progress)
        notifier.stopping()
        got = [manager.recv(1_000) for _ in range(4)]
    assert got == [b"READY=1\nSTATUS=up", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_notifier_without_a_manager_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a missing nor a dead socket is an error, or worth more than a line for debugging."""
    for environment in ({}, {"NOTIFY_SOCKET": "@nobody-listens"}):
        notifier = Notifier(environment)
        notifier.status("fine")
        notifier.ready("fine")
        notifier.stopping()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_memory_is_warned_of_once_and_limited(caplog: pytest.LogCaptureFixture) -> None:
    """One line when the limit is passed, another only after it had fallen below."""
    sizes = iter([50, 150, 160, 90, 150, 400])
    watch = MemoryWatch(MemorySettings(warn=100, max=400), lambda: next(sizes))
    assert [watch.too_much() for _ in range(6)] == [False, False, False, False, False, True]
    assert caplog.text.count("memory.warn") == 2


def test_clock_that_jumps_and_skew_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """An hour's jump either way is one line; so is a skew beyond the limit, with its direction."""
    wall, steady = [1_000_000.0], [0.0]
    watch = ClockWatch(300, lambda: wall[0], lambda: steady[0])
    for jump in (0, 3_600, 0, -3_600):
        steady[0] += 5
        wall[0] += 5 + jump
        watch.check(0)
    assert caplog.text.count("jumped by +3600 s") == caplog.text.count("jumped by -3600 s") == 1
    for skew in (3_600_000, 3_600_000, 0, -3_600_000):
        watch.check(skew)
    assert caplog.text.count("3600 s behind") == caplog.text.count("3600 s ahead of") == 1


def test_metrics_page_has_counters_gauges_and_labels() -> None:
    """Samples are rendered in Prometheus' text format, one family a name."""
    text, kind = render_metrics(
        [
            Sample("stored_metrics", "Stored", "counter", 5),
            Sample("dead_letters", "Dead", "counter", 1, ("reason", "a")),
            Sample("dead_letters", "Dead", "counter", 2, ("reason", "b")),
            Sample("ready", "Ready", "gauge", 1),
        ]
    )
    lines = text.decode().splitlines()
    assert "mqttkit_bridge_stored_metrics_total 5.0" in lines
    assert 'mqttkit_bridge_dead_letters_total{reason="b"} 2.0' in lines
    assert "mqttkit_bridge_ready 1.0" in lines
    assert kind.startswith("text/plain")


def test_histogram_counts_values_up_to_each_bound() -> None:
    """Cumulative, with the sum; a value at a bound belongs to it."""
    histogram = Histogram((0.1, 1.0))
    for value, count in ((0.1, 2), (0.5, 1), (7.0, 1)):
        histogram.observe(value, count)
    buckets, total = histogram.buckets()
    assert buckets == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert total == pytest.approx(7.7)
    page = render_metrics([Sample("delay_seconds", "Delay", "histogram", 0.0, histogram=histogram)])[0].decode()
    assert 'mqttkit_bridge_delay_seconds_bucket{le="1.0"} 3.0' in page
    assert "mqttkit_bridge_delay_seconds_count 4.0" in page


def test_certificates_are_checked_daily_and_when_they_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each check of a file that cannot be read; none in between."""
    file = tmp_path / "ca.pem"
    now = [0.0]
    watch = CertificateWatch(TlsSettings(ca_file=str(file)), lambda: now[0])
    seen = []
    for change, step in ((None, 0), (None, 5), ("one", 5), (None, 5), (None, 86_400)):
        now[0] += step
        if change:
            file.write_text(change)
        watch.check()
        seen.append(caplog.text.count("cannot read the certificates"))
    assert seen == [1, 1, 2, 2, 3]
    CertificateWatch(None).check()
