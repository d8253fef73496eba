"""The HTTP sink: one batch, one key, stored once; every wait bounded."""

from __future__ import annotations

import contextlib
import gzip
import multiprocessing
import ssl
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.ledger import Ledger
from mqttkit.bridge.sinks.remote.http import HttpDestination
from mqttkit.bridge.sinks.remote.ledger_sink import LedgerSink
from mqttkit.bridge.sinks.types import Committed, HttpOptions, MetricBatch, SinkOptions
from mqttkit.errors import SinkRefused, SinkUnavailable, UsageError
from tests.support.http_receiver import Receiver, http_receiver
from tests.support.sinks import ledger_sink, metric
from tests.support.tls import Authority


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as running:
        yield running


@contextlib.contextmanager
def sink_of(receiver: Receiver, directory: Path, timeout: float = 60.0, **http: Any) -> Iterator[LedgerSink]:
    options = SinkOptions(timeout=timeout, http=HttpOptions(**http), dead_letters=str(directory / "ledger.db"))
    sink = open_sink(receiver.url, options)
    assert isinstance(sink, LedgerSink)
    with contextlib.closing(sink):
        sink.open()
        yield sink


def values(receiver: Receiver) -> list[float]:
    return [row["value"] for _, body in receiver.requests for row in body]


def test_http_batch_is_tried_again_under_one_key(receiver: Receiver, tmp_path: Path) -> None:
    """5xx, 409 and 401 are unavailable, 422 refuses; every attempt uses the batch's Idempotency-Key."""
    (tmp_path / "token").write_text("secret-token\n")
    with sink_of(receiver, tmp_path, token_file=str(tmp_path / "token")) as sink:
        sink.probe()
        receiver.answers = [422, 401, 503, 409]
        batch = MetricBatch([metric(1, "x")])
        for error in (SinkUnavailable, SinkUnavailable, SinkUnavailable, SinkRefused):
            with pytest.raises(error) as caught:
                sink.commit(batch)
            assert "secret-token" not in str(caught.value)
        assert sink.commit(batch) == Committed(1, 0)
        assert sink.commit(MetricBatch([metric(2, "x")])) == Committed(0, 1)
    ((headers, body),) = receiver.requests
    assert receiver.keys == [batch.id] * 5
    assert headers["Authorization"] == "Bearer secret-token"
    assert body[0]["tags"] == {"unit": "°C"}


def test_http_batch_of_a_crashed_bridge_is_sent_again_under_its_key(receiver: Receiver, tmp_path: Path) -> None:
    """The answer was lost and the bridge died: the next one repeats the request, and stores no metric twice."""
    receiver.lose_answers = 1
    first = MetricBatch([metric(number, f"d{number}") for number in range(3)])
    with sink_of(receiver, tmp_path) as sink, pytest.raises(SinkUnavailable):
        sink.commit(first)
    with sink_of(receiver, tmp_path) as sink:
        again = MetricBatch([metric(number, f"d{number}") for number in (2, 0, 1, 3)])
        assert sink.commit(again) == Committed(1, 3)
    assert receiver.keys == [first.id, first.id, again.id]
    assert values(receiver) == [0, 1, 2, 3]


def test_http_pending_batch_is_sent_again_by_the_probe(receiver: Receiver, tmp_path: Path) -> None:
    """An idle bridge repeats the interrupted request at its start."""
    receiver.answers = [503]
    batch = MetricBatch([metric(1, "x")])
    with sink_of(receiver, tmp_path) as sink, pytest.raises(SinkUnavailable):
        sink.commit(batch)
    with sink_of(receiver, tmp_path) as sink:
        sink.probe()
        sink.probe()
    assert receiver.keys == [batch.id, batch.id]
    assert values(receiver) == [1]


def test_http_pending_batch_that_is_refused_is_forgotten(receiver: Receiver, tmp_path: Path) -> None:
    """Its metrics were not acknowledged, so they arrive again and are sent under a new key."""
    receiver.answers = [422, 503]
    with sink_of(receiver, tmp_path) as sink, pytest.raises(SinkUnavailable):
        sink.commit(MetricBatch([metric(1, "x")]))
    with sink_of(receiver, tmp_path) as sink:
        assert sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")])) == Committed(2, 0)
    assert values(receiver) == [1, 2]


def _lose_an_answer(url: str, directory: str, number: int, lost: Event) -> None:
    """A bridge whose server has stored the batch, and that waits for the answer."""
    with ledger_sink(url, Path(directory), timeout=60.0) as sink:
        with contextlib.suppress(SinkUnavailable):
            sink.commit(MetricBatch([metric(number, f"d{number}")]))
            raise AssertionError("the answer was not lost")
        lost.set()
        time.sleep(600)  # it is killed


@contextlib.contextmanager
def other_bridge(receiver: Receiver, directory: Path, number: int) -> Iterator[SpawnProcess]:
    """Another process with the same ledger, which has sent this metric and not got an answer."""
    spawn, receiver.lose_answers = multiprocessing.get_context("spawn"), 1
    lost = spawn.Event()
    process = spawn.Process(target=_lose_an_answer, args=(receiver.url, str(directory), number, lost), daemon=True)
    process.start()
    try:
        assert lost.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_http_request_of_a_bridge_that_runs_is_not_repeated(receiver: Receiver, tmp_path: Path) -> None:
    """`dead-letters retry` beside the bridge leaves its request alone, and does not send the same metrics."""
    with other_bridge(receiver, tmp_path, 1), sink_of(receiver, tmp_path) as beside:
        assert beside.commit(MetricBatch([metric(2, "d2")])) == Committed(1, 0)
        beside.probe()
        with pytest.raises(SinkUnavailable, match="another process is sending"):
            beside.commit(MetricBatch([metric(1, "d1"), metric(3, "d3")]))
        assert len(receiver.keys) == len(set(receiver.keys)) == 2
    assert sorted(values(receiver)) == [1, 2]


def test_http_request_of_a_dead_bridge_is_repeated_by_those_that_run(receiver: Receiver, tmp_path: Path) -> None:
    """A member of the group that started before takes over a dead member's request, and stores no metric twice."""
    with sink_of(receiver, tmp_path) as running:
        running.commit(MetricBatch([metric(0, "d0")]))
        for number in (1, 2):
            with other_bridge(receiver, tmp_path, number) as process:
                process.kill()
                process.join()
                again = MetricBatch([metric(number, f"d{number}"), metric(number + 10)])
                assert running.commit(again) == Committed(1, 1)
        assert running._ledger_file().pending_batches() == []
    assert values(receiver) == [0, 1, 11, 2, 12]


def test_ledger_is_shared_by_each_of_its_names(receiver: Receiver, tmp_path: Path) -> None:
    """A process that reaches the ledger by a symbolic link sees that the other one runs."""
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "ledger.db").symlink_to(tmp_path / "ledger.db")
    with other_bridge(receiver, tmp_path, 1), sink_of(receiver, linked) as beside:
        beside.probe()
        assert len(receiver.keys) == 1


def test_ledger_moved_while_the_bridge_is_idle_is_opened_again(receiver: Receiver, tmp_path: Path) -> None:
    """The probe of an idle bridge fails once, and does not wait for the old file."""
    with sink_of(receiver, tmp_path, timeout=60.0) as sink:
        sink.commit(MetricBatch([metric(1, "x")]))
        (tmp_path / "ledger.db").rename(tmp_path / "moved.db")
        with pytest.raises(SinkUnavailable, match="was moved"):
            sink.probe()
        sink.probe()
        assert sink.commit(MetricBatch([metric(2, "y")])) == Committed(1, 0)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("http", "in?to=a", "in?to=b"),
        ("influx", "m?rp=week", "m?rp=year"),
        ("influx", "?org=a&bucket=m", "?org=b&bucket=m"),
    ],
)
def test_addresses_that_differ_in_their_query_have_a_ledger_each(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, one: str, other: str
) -> None:
    """A metric that one of two outputs has stored is not a duplicate in the other."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for path in (one, other):
        address = f"{kind}://127.0.0.1:{receiver.port}/{path}"
        with contextlib.closing(open_sink(address, SinkOptions(timeout=60.0))) as sink:
            sink.open()
            assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)


def test_ledger_is_free_while_the_server_is_asked(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs does not keep others out of the ledger."""
    encode = HttpDestination.encode

    def ask(destination: HttpDestination, metrics: Sequence[Metric]) -> bytes:
        with contextlib.closing(Ledger(str(tmp_path / "ledger.db"), SinkOptions())) as another:
            another.probe()
        return encode(destination, metrics)

    monkeypatch.setattr(HttpDestination, "encode", ask)
    with sink_of(receiver, tmp_path) as sink:
        assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)


def test_http_server_that_closes_idle_connections(receiver: Receiver, tmp_path: Path) -> None:
    """The request goes out again on a new connection, without an error."""
    receiver.hang_up = True
    with sink_of(receiver, tmp_path) as sink:
        for number in range(5):
            receiver.hung_up.clear()
            assert sink.commit(MetricBatch([metric(number)])) == Committed(1, 0)
            assert receiver.hung_up.wait(60)
    assert values(receiver) == [0, 1, 2, 3, 4]


def test_http_connection_is_kept_alive(receiver: Receiver, tmp_path: Path) -> None:
    """One connection carries every batch."""
    with sink_of(receiver, tmp_path) as sink:
        for number in range(5):
            sink.commit(MetricBatch([metric(number)]))
    assert receiver.connections == 1


def test_http_server_that_drips_its_answer(receiver: Receiver, tmp_path: Path) -> None:
    """One deadline bounds the whole request; the next attempt uses the same key."""
    receiver.drip, receiver.body = 0.2, b"x" * 1_000
    with sink_of(receiver, tmp_path, timeout=2.0) as sink:
        batch = MetricBatch([metric(1, "x")])
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match="no complete answer within 2 s"):
            sink.commit(batch)
        assert time.monotonic() - began < 60
        receiver.drip = 0
        assert sink.commit(batch) == Committed(1, 0)
    assert receiver.keys == [batch.id, batch.id]
    assert values(receiver) == [1]


def test_http_answer_is_bounded(receiver: Receiver, tmp_path: Path) -> None:
    """The sink reads 64 KiB of an answer and quotes 200 characters of it."""
    receiver.body, receiver.answers = b"x" * 5_000_000, [500]
    with sink_of(receiver, tmp_path) as sink:
        batch = MetricBatch([metric(1)])
        with pytest.raises(SinkUnavailable) as caught:
            sink.commit(batch)
        assert len(str(caught.value)) < 400
        assert sink.commit(batch) == Committed(1, 0)


def test_http_retry_after_is_honoured(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request goes out before the time that the server asks for."""
    now = [100.0]
    monkeypatch.setattr("mqttkit.bridge.sinks.remote.http_connection.time.monotonic", lambda: now[0])
    receiver.headers, receiver.answers = {"Retry-After": "30"}, [429]
    with sink_of(receiver, tmp_path) as sink:
        batch = MetricBatch([metric(1)])
        for moment in (100.0, 110.0, 129.9):
            now[0] = moment
            with pytest.raises(SinkUnavailable, match="waiting 30 s as the server asks"):
                sink.commit(batch)
        assert len(receiver.keys) == 1
        now[0] = 130.1
        assert sink.commit(batch) == Committed(1, 0)


@pytest.mark.parametrize("moment", ["soon", "-5", "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_http_retry_after_that_cannot_be_read_is_ignored(receiver: Receiver, tmp_path: Path, moment: str) -> None:
    """The next attempt sends the batch again."""
    receiver.headers, receiver.answers = {"Retry-After": moment}, [503]
    with sink_of(receiver, tmp_path) as sink:
        batch = MetricBatch([metric(1)])
        with pytest.raises(SinkUnavailable, match=r"answered 503 Service Unavailable: \{\}$"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(1, 0)


def test_http_redirect_is_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    """Metrics and credentials go to the server of the address only."""
    with http_receiver() as other:
        receiver.headers, receiver.answers = {"Location": other.url}, [302, 307]
        with sink_of(receiver, tmp_path) as sink:
            batch = MetricBatch([metric(1)])
            for status in (307, 302):
                with pytest.raises(SinkUnavailable, match=f"answered {status}"):
                    sink.commit(batch)
            assert sink.commit(batch) == Committed(1, 0)
        assert other.connections == 0


def test_http_compressed_answer_is_not_unpacked(receiver: Receiver, tmp_path: Path) -> None:
    """The sink has not asked for compression, and 64 KiB may unpack to 64 MiB."""
    receiver.headers, receiver.answers = {"Content-Encoding": "gzip"}, [500]
    receiver.body = gzip.compress(b"x" * 50_000_000)
    with sink_of(receiver, tmp_path) as sink, pytest.raises(SinkUnavailable) as caught:
        sink.commit(MetricBatch([metric(1)]))
    assert "xxx" not in str(caught.value)


def test_http_token_is_read_again_when_it_changes(receiver: Receiver, tmp_path: Path) -> None:
    """A file that cannot be read for a moment is waited for."""
    token = tmp_path / "token"
    token.write_text("one\n")
    with sink_of(receiver, tmp_path, token_file=str(token)) as sink:
        sink.commit(MetricBatch([metric(1)]))
        token.unlink()
        batch = MetricBatch([metric(2)])
        with pytest.raises(SinkUnavailable, match="token"):
            sink.commit(batch)
        token.write_text("second\n")
        sink.commit(batch)
    assert [headers["Authorization"] for headers, _ in receiver.requests] == ["Bearer one", "Bearer second"]


def test_http_headers_basic_authentication_and_gzip(receiver: Receiver, tmp_path: Path) -> None:
    """Each request has the headers of the file, the user's credentials, and a compressed body."""
    (tmp_path / "headers").write_text("X-Source: bridge: one\n\nX-Team:data\n")
    (tmp_path / "password").write_text("pass word\n")
    more = {"headers_file": str(tmp_path / "headers"), "password_file": str(tmp_path / "password")}
    with sink_of(receiver, tmp_path, user="ingest", gzip=True, **more) as sink:
        sink.commit(MetricBatch([metric(number) for number in range(100)]))
    ((headers, body),) = receiver.requests
    assert (headers["X-Source"], headers["X-Team"]) == ("bridge: one", "data")
    assert headers["Authorization"] == "Basic aW5nZXN0OnBhc3Mgd29yZA=="
    assert headers["Content-Encoding"] == "gzip"
    assert len(body) == 100


def test_http_client_certificate(tmp_path: Path) -> None:
    """The server asks for a certificate, and the sink trusts the authority that it was given."""
    authority = Authority(tmp_path)
    server, client = authority.sign("127.0.0.1"), authority.sign("bridge")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.cert, server.key)
    trusted = {"ca_file": authority.file}
    with http_receiver(context) as receiver:
        with sink_of(receiver, tmp_path, **trusted) as sink, pytest.raises(SinkUnavailable):
            sink.commit(MetricBatch([metric(1, "x")]))
        with sink_of(receiver, tmp_path, **trusted, cert_file=client.cert, key_file=client.key) as sink:
            assert sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")])) == Committed(1, 1)
        assert values(receiver) == [1, 2]


@pytest.mark.parametrize("content", [None, "", "no colon\n"])
def test_http_file_that_cannot_be_used_is_an_error_of_usage(tmp_path: Path, content: str | None) -> None:
    """It is found before the bridge starts."""
    path = tmp_path / "headers"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="headers"):
        open_sink("http://localhost/", SinkOptions(http=HttpOptions(headers_file=str(path))))
