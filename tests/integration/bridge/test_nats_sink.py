"""The nats sink against a real server with JetStream: what it publishes, repeats and refuses."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.ledger import PendingPost
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.remote.ledger_sink import LedgerSink
from mqttkit.bridge.sinks.remote.nats import NatsDestination
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.bridge.verify_place import own_place
from mqttkit.errors import MqttkitError, SinkBroken, SinkUnavailable
from mqttkit.settings import BridgeSettings
from tests.support.nats import NatsServer, nats_server
from tests.support.sinks import metric


@pytest.fixture
def nats(server: Callable[[str], Any]) -> NatsServer:
    found = server("nats")
    assert isinstance(found, NatsServer)
    return found


@contextlib.contextmanager
def opened(address: str, directory: Path, **options: Any) -> Any:
    sink = open_sink(address, SinkOptions(dead_letters=str(directory / "ledger.db"), **options))
    with contextlib.closing(sink):
        sink.open()
        yield sink


def stored(address: str, agent: str = "*") -> list[dict[str, Any]]:
    with contextlib.closing(NatsDestination(address, SinkOptions())) as destination:
        return [json.loads(data) for data in destination.read(agent)]


def test_nats_publishes_json_on_a_subject_of_four_parts(nats: NatsServer, tmp_path: Path) -> None:
    """A consumer filters by tenant, agent and name; a dot in them is an underscore."""
    address = nats.address("subjects", "iot")
    with opened(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(21.5, "x", agent="a.b")._replace(metric_name="room.temp")]))
    (found,) = stored(address, "a.b")
    assert (found["agent_id"], found["metric_name"], found["value"], found["tags"]) == (
        "a.b",
        "room.temp",
        21.5,
        {"unit": "°C"},
    )
    assert stored(address, "other") == []


def keep_pending(sink: LedgerSink, metrics: Sequence[Metric]) -> PendingPost:
    """Leave what a crash leaves that came after the request and before its answer."""
    post = PendingPost("earlier", sink._destination.encode(metrics), ())
    sink._ledger_file().keep_pending(post)
    return post


def test_nats_repeats_a_request_after_the_duplicate_window(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has forgotten the identifiers, so the sink reads the stream and publishes only the rest."""
    monkeypatch.setattr("mqttkit.bridge.sinks.remote.nats.DUPLICATE_SECONDS", 0.1)
    address = nats.address("window")
    metrics = [metric(number, f"d{number}" if number % 2 else None) for number in range(20)]
    with opened(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(99)]))
        post = keep_pending(sink, metrics)
        sink._destination.send(post._replace(body=b"\n".join(post.body.split(b"\n")[:11])), repeated=False)
    time.sleep(0.3)  # longer than the window
    with opened(address, tmp_path) as sink:
        sink.probe()
        assert sink._ledger_file().pending_batches() == []
    assert [row["value"] for row in stored(address)] == [99, *range(20)]


def test_nats_work_queue_relies_on_the_duplicate_window(nats: NatsServer, tmp_path: Path) -> None:
    """Such a stream has no reader but its consumer: the repeated request is published, and the server drops it."""
    address = nats.address("queue")
    nats.make_stream("queue", retention="workqueue")
    with opened(address, tmp_path) as sink:
        post = keep_pending(sink, [metric(1, "x"), metric(2)])
        sink._destination.send(post, repeated=False)
        sink.probe()
    assert nats.messages("queue") == 2


def test_nats_drops_what_another_bridge_has_published(nats: NatsServer, tmp_path: Path) -> None:
    """A member of a group with another ledger gets the same message: the identifier is the same."""
    address = nats.address("twice")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with opened(address, tmp_path / name) as sink:
            assert sink.commit(MetricBatch([metric(1, "x"), metric(2)])) == Committed(2, 0)
    assert [row["value"] for row in stored(address)] == [1, 2, 2]


def test_nats_stream_with_other_subjects_is_refused(nats: NatsServer, tmp_path: Path) -> None:
    """The stream belongs to someone else; the error shows its subjects."""
    with opened(nats.address("mine", "mine"), tmp_path) as sink:
        sink.probe()
    with opened(nats.address("mine", "other"), tmp_path) as sink, pytest.raises(SinkBroken, match=r"takes mine\.>"):
        sink.commit(MetricBatch([metric(1)]))


def test_nats_stream_that_vanishes_is_created_again(nats: NatsServer, tmp_path: Path) -> None:
    """The next batch finds it missing."""
    address = nats.address("vanishes")
    with opened(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(1)]))
        with contextlib.closing(NatsDestination(address, SinkOptions())) as other:
            other.delete_stream()
        assert sink.commit(MetricBatch([metric(2)])) == Committed(1, 0)
    assert [row["value"] for row in stored(address)] == [2]


def test_nats_that_hangs_is_unavailable(tmp_path: Path) -> None:
    """After SIGCONT the batch is in the stream once."""
    with nats_server(tmp_path / "nats") as nats:
        address = nats.address("hangs")
        batch = MetricBatch([metric(number) for number in range(3)])
        with opened(address, tmp_path, timeout=1.0) as sink:
            sink.commit(MetricBatch([metric(9)]))
            nats.send(signal.SIGSTOP)
            try:
                with pytest.raises(SinkUnavailable, match="no answer within 1 s"):
                    sink.commit(batch)
            finally:
                nats.send(signal.SIGCONT)
            assert sink.commit(batch) == Committed(3, 0)
        assert [row["value"] for row in stored(address)] == [9, 0, 1, 2]


def test_nats_user_and_password_file(tmp_path: Path) -> None:
    """A wrong password is unavailable, a corrected file works; the password is in no message."""
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with nats_server(tmp_path / "nats", "--user", "ingest", "--pass", "right-secret") as nats:
        address = nats.address("secured").replace("nats://", "nats://ingest@")
        with opened(address, tmp_path, password_file=str(password)) as sink:
            with pytest.raises(SinkUnavailable) as caught:
                sink.commit(MetricBatch([metric(1)]))
            assert "wrong" not in str(caught.value)
            password.write_text("right-secret\n")
            assert sink.commit(MetricBatch([metric(1)])) == Committed(1, 0)


def test_nats_proof_has_its_own_stream(nats: NatsServer) -> None:
    """It is removed afterwards, and the user's stream stays as it is."""
    bridge = BridgeSettings(sink=nats.address("mine2"))
    with own_place(bridge, "verify-0123456789ab") as place:
        with contextlib.closing(open_sink(place.sink or "", sink_options(place))) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")]))
        assert stored_ids(place, "a") == ["x", "y"]
    with contextlib.closing(NatsDestination(place.sink or "", SinkOptions())) as destination:
        assert destination.read() == []


@pytest.mark.parametrize("address", ["nats://h", "nats://h/a/b", "nats://h/S?x=1", "nats://u:p@h/S"])
def test_nats_address_that_cannot_work_is_an_error_of_usage(address: str) -> None:
    """It is found before anything is opened."""
    with pytest.raises(MqttkitError) as caught:
        open_sink(address, SinkOptions())
    assert caught.value.exit_code == 2
