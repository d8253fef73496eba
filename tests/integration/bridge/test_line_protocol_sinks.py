"""The influx and victoria sinks against real servers: what they store, refuse and repeat."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.remote import recent_requests
from mqttkit.bridge.sinks.remote.ledger_sink import LedgerSink
from mqttkit.bridge.sinks.types import Committed, MetricBatch
from mqttkit.bridge.verification.place import own_place
from mqttkit.errors import SinkRefused, SinkUnavailable
from mqttkit.settings import BridgeSettings
from tests.support.bridges import wait_until
from tests.support.http_receiver import http_receiver
from tests.support.line_servers import Influx, Victoria, victoria_server
from tests.support.sinks import commit_until_done, keep_pending, ledger_sink, metric

ALL = '{agent_id!=""}'


@pytest.fixture
def influx(server: Callable[[str], Any]) -> Influx:
    found = server("influx")
    assert isinstance(found, Influx)
    return found


@pytest.fixture
def victoria(tmp_path: Path) -> Iterator[Victoria]:
    with victoria_server(tmp_path / "victoria", "-retentionPeriod=30d", "-maxLabelsPerTimeseries=8") as running:
        yield running


def now(value: float, dedupe_id: str | None = None, **fields: Any) -> Metric:
    return metric(value, dedupe_id)._replace(timestamp_ms=time.time_ns() // 1_000_000, **fields)


def test_influx_stores_columns_and_tags(influx: Influx, tmp_path: Path) -> None:
    """Measurement is the metric's name; tenant, agent and tags are tags; value and dedupe_id are fields."""
    address = influx.address("columns")
    tags = json.dumps({"unit": "°C", "a b": "x,y=z", "quote": '"', "ok": True})
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(21.5, 'say "x\\y"')._replace(tags=tags)]))
    ((moment, *row),) = influx.query('SELECT "a b", agent_id, dedupe_id, ok, quote, unit, value FROM t', "columns")
    assert moment.startswith("2023-11-14T22:13:20.123")
    assert row == ["x,y=z", "a", 'say "x\\y"', "true", '"', "°C", 21.5]


def test_influx_repeats_a_batch_of_a_crashed_bridge_without_new_points(influx: Influx, tmp_path: Path) -> None:
    """The request had arrived: the next bridge sends the same points, which replace themselves."""
    address = influx.address("crash")
    batch = MetricBatch([metric(number, f"d{number}" if number % 2 else None) for number in range(200)])
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(batch)
        keep_pending(sink, batch.metrics)
    with ledger_sink(address, tmp_path) as sink:
        sink.probe()
        assert ledger_is_empty(sink)
    assert influx.query("SELECT count(value) FROM t", "crash")[0][1] == 200


def ledger_is_empty(sink: LedgerSink) -> bool:
    return sink._ledger_file().pending_batches() == []


def test_influx_that_drops_a_part_refuses_the_batch(influx: Influx, tmp_path: Path) -> None:
    """A value of another type and a time before the retention are refused; the metrics beside them are stored once."""
    address = influx.address("part")
    influx.query('CREATE RETENTION POLICY "month" ON "part" DURATION 30d REPLICATION 1')
    with ledger_sink(f"{address}?rp=month", tmp_path) as sink:
        metrics = [now(1), metric(2), now(3)]
        with pytest.raises(SinkRefused, match="beyond retention policy"):
            sink.commit(MetricBatch(metrics))
        sink.commit(MetricBatch(metrics[:1]))
        sink.commit(MetricBatch(metrics[2:]))
    assert [row[1] for row in influx.query("SELECT value FROM month.t", "part")] in ([1, 3], [3, 1])


def test_influx_without_its_database_is_unavailable(influx: Influx, tmp_path: Path) -> None:
    """Nothing counts as stored until the database is there; the error names it."""
    address = influx.address("missing")
    influx.query("DROP DATABASE missing")
    batch = MetricBatch([metric(1)])
    with ledger_sink(address, tmp_path) as sink:
        with pytest.raises(SinkUnavailable, match="database not found"):
            sink.commit(batch)
        influx.address("missing")
        assert sink.commit(batch) == Committed(1, 0)


def test_influx_2_gets_organisation_bucket_and_token(tmp_path: Path) -> None:
    """The address chooses the path of version 2, and the token has its scheme."""
    (tmp_path / "token").write_text("secret\n")
    with http_receiver() as receiver:
        address = f"influx://127.0.0.1:{receiver.port}/?org=my+org&bucket=b"
        settings = BridgeSettings(sink=address, token_file=str(tmp_path / "token"), http_gzip=True)
        options = dataclasses.replace(sink_options(settings), dead_letters=str(tmp_path / "ledger.db"))
        with contextlib.closing(open_sink(address, options)) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(1, "x")]))
    ((path, headers, body),) = receiver.texts
    assert path == "/api/v2/write?org=my+org&bucket=b&precision=ns"
    assert headers["Authorization"] == "Token secret"
    assert body.startswith(b"t,agent_id=a,")


def test_influx_2_request_is_understood_by_victoria(victoria: Victoria, tmp_path: Path) -> None:
    """VictoriaMetrics has the path of InfluxDB 2, and reads lines, organisation, bucket and precision."""
    found = now(21.5, "x")
    with ledger_sink(f"influx://127.0.0.1:{victoria.port}/?org=my+org&bucket=b", tmp_path) as sink:
        assert sink.commit(MetricBatch([found])) == Committed(1, 0)
    assert ("t_value", 21.5, found.timestamp_ms) in [
        (labels["__name__"], value, stamp) for labels, value, stamp in victoria.samples(ALL)
    ]


@pytest.mark.parametrize("kind", ["influx", "victoria"])
def test_page_of_a_proxy_does_not_prove_that_a_batch_is_stored(tmp_path: Path, kind: str) -> None:
    """The servers answer 204. A login page comes with 200, so the same batch is sent until the server has it."""
    with http_receiver() as receiver:
        receiver.answers, receiver.body = [200], b"<html>Please log in</html>"
        address = f"{kind}://127.0.0.1:{receiver.port}/db?{'rp=month' if kind == 'influx' else 'check=no'}"
        with ledger_sink(address, tmp_path) as sink:
            batch = MetricBatch([metric(1, "x")])
            with pytest.raises(SinkUnavailable, match="answered 200 OK: <html>Please log in"):
                sink.commit(batch)
            assert sink.commit(batch) == Committed(1, 0)
    first, second = receiver.texts
    assert first == second


@pytest.mark.parametrize("body", [b"<html>", b"null", b"[3]", b'{"results":[null]}', b'{"metric":{}}'])
@pytest.mark.parametrize("kind", ["influx", "victoria"])
def test_answer_that_is_not_data_is_unavailable(tmp_path: Path, kind: str, body: bytes) -> None:
    """Reading back from something else than the server is an error with a part of its answer."""
    with http_receiver() as receiver:
        receiver.answers, receiver.body = [200], body
        address = f"{kind}://127.0.0.1:{receiver.port}/db"
        with pytest.raises(SinkUnavailable, match=r"did not answer .*with") as caught:
            stored_ids(BridgeSettings(sink=address), "a")
    assert body.decode() in str(caught.value)


def test_victoria_refuses_what_the_server_would_drop(victoria: Victoria, tmp_path: Path) -> None:
    """It would answer 204 to a time outside its retention, too many labels and a label that is too long."""
    many = json.dumps({f"n{number}": "x" for number in range(6)})
    wrong = {
        "older than the retention of 30 days": metric(1),
        "two days ahead": now(1)._replace(timestamp_ms=time.time_ns() // 1_000_000 + 3 * 86_400_000),
        "6 tags, and the server keeps 5": now(1, tags=many),
        "a tag of 20000 bytes": now(1, tags=json.dumps({"x": "y" * 20_000})),
    }
    with ledger_sink(victoria.url, tmp_path) as sink:
        for reason, refused in wrong.items():
            with pytest.raises(SinkRefused, match=reason):
                sink.commit(MetricBatch([now(1), refused]))
    assert victoria.samples(ALL) == []


def test_victoria_that_stores_nothing_is_unavailable(tmp_path: Path) -> None:
    """A server that drops new series answers 204; nothing counts as stored, because a sample is read back.

    The server's limiter is a Bloom filter: it lets the next series through in one run of 16, but not the eighth.
    """
    with victoria_server(tmp_path / "victoria", "-storage.maxHourlySeries=1") as victoria:
        with ledger_sink(victoria.url, tmp_path, timeout=60.0) as sink:
            assert sink.commit(MetricBatch([now(1)])) == Committed(1, 0)
        with ledger_sink(victoria.url, tmp_path, timeout=3.0) as sink:
            batch = MetricBatch([now(2)._replace(metric_name=f"another{number}") for number in range(8)])
            with pytest.raises(SinkUnavailable, match="answered 204, but another7,agent_id=a"):
                sink.commit(batch)
            assert not ledger_is_empty(sink)


def test_victoria_stores_a_repeated_batch_once(victoria: Victoria, tmp_path: Path) -> None:
    """The answer was lost: only samples that are not stored yet are sent again, equal ones included."""
    stamp = time.time_ns() // 1_000_000
    same = [metric(1)._replace(timestamp_ms=stamp), metric(1)._replace(timestamp_ms=stamp)]
    others = [metric(number / 7, f"d{number}")._replace(timestamp_ms=stamp - number // 2) for number in range(150)]
    with ledger_sink(victoria.url, tmp_path) as sink:
        assert sink.commit(MetricBatch([*same, *others[:80]])) == Committed(82, 0)
        keep_pending(sink, [*same, *others])
    with ledger_sink(victoria.url, tmp_path) as sink:
        sink.probe()
        assert ledger_is_empty(sink)
    found = sorted(value for _, value, _ in victoria.samples(ALL))
    assert found == pytest.approx(sorted([1.0, 1.0, *(number / 7 for number in range(150))]))


def test_victoria_reads_back_only_around_the_samples(
    victoria: Victoria, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device sends readings of last week with those of today: what lies between does not fit into an answer."""
    monkeypatch.setattr("mqttkit.bridge.sinks.remote.victoria.MAX_EXPORT", 10_000)
    stamp = time.time_ns() // 1_000_000
    week = [metric(7)._replace(timestamp_ms=stamp - number * 300_000) for number in range(2_000)]
    with ledger_sink(victoria.url, tmp_path, timeout=60.0) as sink:
        sink.commit(MetricBatch(week))
        assert len(victoria.samples(ALL)) == 2_000  # a sample can be read once it is flushed
        keep_pending(sink, [week[-1], week[0], metric(8)._replace(timestamp_ms=stamp)])
        sink.probe()
        assert ledger_is_empty(sink)
    values = [value for _, value, _ in victoria.samples(ALL)]
    assert sorted(values) == [*[7.0] * 2_000, 8.0]


@pytest.mark.parametrize("kind", ["influx", "victoria"])
def test_what_a_proof_stores_is_removed(server: Callable[[str], Any], tmp_path: Path, kind: str) -> None:
    """The user's own metrics stay."""
    running = server(kind)
    address = running.address("proof") if kind == "influx" else f"{running.url}?check=no"
    name = "verify-0123456789ab"
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(7, "mine", agent="mine")]))
    with own_place(BridgeSettings(sink=address), name) as place:
        with contextlib.closing(open_sink(address, sink_options(place))) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(number, f"{name}-{number}", agent=name) for number in range(3)]))
        if kind == "victoria":
            running.samples(ALL)
        assert sorted(stored_ids(place, name)) == [f"{name}-{number}" for number in range(3)]
    assert stored_ids(BridgeSettings(sink=address), name) == []
    assert stored_ids(BridgeSettings(sink=address), "mine") == (["mine"] if kind == "influx" else ["mine-7"])


def test_victoria_that_hangs_is_unavailable(victoria: Victoria, tmp_path: Path) -> None:
    """After SIGCONT the batch is stored, each sample once."""
    batch = MetricBatch([now(number) for number in range(3)])
    with ledger_sink(victoria.url, tmp_path, timeout=1.0) as sink:
        commit_until_done(sink, MetricBatch([now(9)]))
        victoria.send(signal.SIGSTOP)
        try:
            with pytest.raises(SinkUnavailable, match="no complete answer within 1 s"):
                sink.commit(batch)
        finally:
            victoria.send(signal.SIGCONT)
        assert commit_until_done(sink, batch) == Committed(3, 0)
    assert sorted(value for _, value, _ in victoria.samples(ALL)) == [0, 1, 2, 9]


@pytest.fixture
def keep(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how long a sink keeps a request: an hour at first. It looks after them at each probe."""
    set_seconds = functools.partial(monkeypatch.setattr, recent_requests, "KEEP_SECONDS")
    set_seconds(3_600.0)
    monkeypatch.setattr(recent_requests, "CHECK_SECONDS", 0.0)
    return set_seconds


def test_victoria_that_is_killed_gets_again_what_it_lost(
    victoria: Victoria, tmp_path: Path, keep: Callable[[float], None]
) -> None:
    """It answers before it writes to disk. After its restart the next bridge reads back; each sample is there once."""
    with ledger_sink(victoria.url, tmp_path) as sink:
        for first in range(0, 500, 50):
            sink.commit(MetricBatch([now(number, f"d{number}") for number in range(first, first + 50)]))
        victoria.stop(signal.SIGKILL)
    killed = int(time.time())
    wait_until(lambda: int(time.time()) > killed)  # its start has a precision of a second
    victoria.start()
    keep(2.0)  # a new sample can be read after 1.2
    with ledger_sink(victoria.url, tmp_path) as sink:
        wait_until(lambda: probed_and_forgotten(sink))
    assert sorted(value for _, value, _ in victoria.samples(ALL)) == list(range(500))


def probed_and_forgotten(sink: LedgerSink) -> bool:
    """Let the sink look after its recent requests; return True if it has none left."""
    sink.probe()
    (left,) = sink._ledger_file()._database.execute("SELECT count(*) FROM recent").fetchone()
    return bool(left == 0)


def test_victoria_that_runs_on_gets_nothing_again(
    victoria: Victoria, tmp_path: Path, keep: Callable[[float], None]
) -> None:
    """The ledger keeps each request for some seconds, and then forgets it."""
    with ledger_sink(victoria.url, tmp_path) as sink:
        sink.commit(MetricBatch([now(1, "x"), now(2, "y")]))
        assert not probed_and_forgotten(sink)
        keep(0.0)
        wait_until(lambda: probed_and_forgotten(sink))
    assert sorted(value for _, value, _ in victoria.samples(ALL)) == [1, 2]
