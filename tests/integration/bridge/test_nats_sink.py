"""The nats sink against a real server with JetStream: what it publishes, repeats and refuses."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.remote.nats import NatsDestination
from mqttkit.bridge.sinks.types import Committed, HttpOptions, MetricBatch, SinkOptions
from mqttkit.bridge.verification.place import own_place
from mqttkit.broker.certificates.authority import Authority
from mqttkit.errors import MqttkitError, SinkBroken, SinkRefused, SinkUnavailable
from mqttkit.settings import BridgeSettings
from tests.support.nats import NatsServer, nats_server
from tests.support.sinks import commit_until_done, keep_pending, ledger_sink, metric


@pytest.fixture
def nats(server: Callable[[str], Any]) -> NatsServer:
    found = server("nats")
    assert isinstance(found, NatsServer)
    return found


def stored(address: str, agent: str = "*") -> list[dict[str, Any]]:
    with contextlib.closing(NatsDestination(address, SinkOptions())) as destination:
        return [json.loads(data) for data in destination.read(agent)]


def test_nats_publishes_json_on_a_subject_of_four_parts(nats: NatsServer, tmp_path: Path) -> None:
    """A consumer filters by tenant, agent and name; a dot in them is an underscore."""
    address = nats.address("subjects", "iot")
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(21.5, "x", agent="a.b")._replace(metric_name="room.temp")]))
    (found,) = stored(address, "a.b")
    assert (found["agent_id"], found["metric_name"], found["value"], found["tags"]) == (
        "a.b",
        "room.temp",
        21.5,
        {"unit": "°C"},
    )
    assert stored(address, "other") == []


def test_nats_repeats_a_request_after_the_duplicate_window(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has forgotten the identifiers, so the sink reads the stream and publishes only the rest."""
    monkeypatch.setattr("mqttkit.bridge.sinks.remote.nats.DUPLICATE_SECONDS", 0.1)
    address = nats.address("window")
    metrics = [metric(number, f"d{number}" if number % 2 else None) for number in range(20)]
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(99)]))
        post = keep_pending(sink, metrics)
        sink._destination.send(post._replace(body=b"\n".join(post.body.split(b"\n")[:11])), repeated=False)
    time.sleep(0.3)  # longer than the window
    with ledger_sink(address, tmp_path) as sink:
        sink.probe()
        assert sink._ledger_file().pending_batches() == []
    assert [row["value"] for row in stored(address)] == [99, *range(20)]


def test_nats_work_queue_relies_on_the_duplicate_window(nats: NatsServer, tmp_path: Path) -> None:
    """Such a stream has no reader but its consumer: the repeated request is published, and the server drops it."""
    address = nats.address("queue")
    nats.make_stream("queue", retention="workqueue")
    with ledger_sink(address, tmp_path) as sink:
        post = keep_pending(sink, [metric(1, "x"), metric(2)])
        sink._destination.send(post, repeated=False)
        sink.probe()
    assert nats.messages("queue") == 2


@pytest.mark.parametrize("largest", [-1, 2_000], ids=["server", "stream"])
def test_nats_message_that_is_too_large_is_refused(nats: NatsServer, tmp_path: Path, largest: int) -> None:
    """It is found before anything of the batch is published, so the others are not published twice."""
    name = f"large{abs(largest)}"
    nats.make_stream(name, max_msg_size=largest)
    tags = json.dumps({"x": "y" * (1_900 if largest > 0 else 1_048_400)})
    with ledger_sink(nats.address(name), tmp_path, timeout=60.0) as sink:
        with pytest.raises(SinkRefused, match="bytes, the limit is"):
            sink.commit(MetricBatch([metric(1), metric(2)._replace(tags=tags), metric(3)]))
        assert sink.commit(MetricBatch([metric(1)])) == Committed(1, 0)
    assert nats.messages(name) == 1


def test_nats_drops_what_another_bridge_has_published(nats: NatsServer, tmp_path: Path) -> None:
    """A member of a group with another ledger gets the same message: the identifier is the same."""
    address = nats.address("twice")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with ledger_sink(address, tmp_path / name) as sink:
            assert sink.commit(MetricBatch([metric(1, "x"), metric(2)])) == Committed(2, 0)
    assert [row["value"] for row in stored(address)] == [1, 2, 2]


def test_nats_stores_a_metric_under_each_subject(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs of one stream have a ledger each, and the server sees that their messages differ."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nats.make_stream("both", subjects=["raw.>", "live.>"])
    for prefix in ("raw", "live"):
        with contextlib.closing(open_sink(nats.address("both", prefix), SinkOptions(timeout=60.0))) as sink:
            sink.open()
            assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)
    assert nats.messages("both") == 2


def test_nats_stream_with_other_subjects_is_refused(nats: NatsServer, tmp_path: Path) -> None:
    """The stream belongs to someone else; the error shows its subjects."""
    with ledger_sink(nats.address("mine", "mine"), tmp_path) as sink:
        sink.probe()
    with (
        ledger_sink(nats.address("mine", "other"), tmp_path) as sink,
        pytest.raises(SinkBroken, match=r"takes mine\.>"),
    ):
        sink.commit(MetricBatch([metric(1)]))


def test_nats_stream_that_vanishes_is_created_again(nats: NatsServer, tmp_path: Path) -> None:
    """The next batch finds it missing."""
    address = nats.address("vanishes")
    with ledger_sink(address, tmp_path) as sink:
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
        with ledger_sink(address, tmp_path, timeout=1.0) as sink:
            commit_until_done(sink, MetricBatch([metric(9)]))
            nats.send(signal.SIGSTOP)
            try:
                with pytest.raises(SinkUnavailable, match="no answer within 1 s"):
                    sink.commit(batch)
            finally:
                nats.send(signal.SIGCONT)
            assert commit_until_done(sink, batch) == Committed(3, 0)
        assert [row["value"] for row in stored(address)] == [9, 0, 1, 2]


def test_nats_user_and_password_file(tmp_path: Path) -> None:
    """A wrong password is unavailable, a corrected file works; the password is in no message."""
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with nats_server(tmp_path / "nats", "--user", "ingest", "--pass", "right-secret") as nats:
        address = nats.address("secured").replace("nats://", "nats://ingest@")
        with ledger_sink(address, tmp_path, password_file=str(password)) as sink:
            with pytest.raises(SinkUnavailable) as caught:
                sink.commit(MetricBatch([metric(1)]))
            assert "wrong" not in str(caught.value)
            password.write_text("right-secret\n")
            assert sink.commit(MetricBatch([metric(1)])) == Committed(1, 0)


def test_natss_verifies_the_server_and_shows_a_certificate(tmp_path: Path) -> None:
    """Another authority and a missing client certificate are unavailable; with both right, the batch is stored once."""
    authority, other = Authority.create("ours"), Authority.create("other")
    for name, found in (("ca", authority), ("other", other)):
        (tmp_path / f"{name}.crt").write_bytes(found.pem)
    for name, issued in (("server", authority.sign_server()), ("client", authority.sign_client("bridge"))):
        (tmp_path / f"{name}.crt").write_bytes(issued.certificate)
        (tmp_path / f"{name}.key").write_bytes(issued.key)
    (tmp_path / "password").write_text("right-secret\n")
    file = {path.name: str(path) for path in tmp_path.iterdir()}
    tls = ("--tls", "--tlscert", file["server.crt"], "--tlskey", file["server.key"])
    login = ("--tlsverify", "--tlscacert", file["ca.crt"], "--user", "ingest", "--pass", "right-secret")
    right = {"ca_file": file["ca.crt"], "cert_file": file["client.crt"], "key_file": file["client.key"]}
    batch = MetricBatch([metric(1, "x"), metric(2)])
    with nats_server(tmp_path / "nats", *tls, *login) as nats:
        address = nats.address("tls").replace("nats://", "natss://ingest@")

        def commit(http: dict[str, str]) -> Committed:
            options = {"password_file": file["password"], "http": HttpOptions(**http), "timeout": 60.0}
            with ledger_sink(address, tmp_path, **options) as sink:
                return cast(Committed, sink.commit(batch))

        with pytest.raises(SinkUnavailable, match="certificate verify failed"):
            commit({**right, "ca_file": file["other.crt"]})
        with pytest.raises(SinkUnavailable, match=r"natss://127\.0\.0\.1"):
            commit({"ca_file": file["ca.crt"]})
        assert commit(right) == Committed(2, 0)


@contextlib.contextmanager
def scripted_server(info: bytes, reply: bytes = b"") -> Iterator[tuple[int, Future[bytes]]]:
    """Run a server for one connection: its port, and what it received. It answers each request with `reply`."""

    def serve() -> bytes:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as lines:
            connection.settimeout(60)
            connection.sendall(info)
            received = b""
            for line in lines:
                received += line
                words = line.split()
                if words[0] == b"PING":
                    connection.sendall(b"PONG\r\n")
                elif words[0] == b"PUB":
                    connection.sendall(b"MSG %s 1 %d\r\n%s\r\n" % (words[2], len(reply), reply))
            return received

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        yield server.getsockname()[1], pool.submit(serve)


INFO = b'INFO {"headers":true,"jetstream":true,"auth_required":true,"max_payload":1000}\r\n'


def test_natss_sends_no_password_to_a_server_without_tls(tmp_path: Path) -> None:
    """Someone on the way can answer that TLS is not required; the sink ends the connection then."""
    (tmp_path / "password").write_text("right-secret\n")
    with scripted_server(INFO) as (port, received):
        address, options = f"natss://ingest@127.0.0.1:{port}/S", {"password_file": str(tmp_path / "password")}
        with (
            ledger_sink(address, tmp_path, timeout=60.0, **options) as sink,
            pytest.raises(SinkUnavailable, match="secure connection required"),
        ):
            sink.commit(MetricBatch([metric(1)]))
        assert received.result(60) == b""


@pytest.mark.parametrize(
    ("info", "reply"),
    [
        (b"INFO null\r\n", b""),
        (b"INFO\r\n", b""),
        (b"INFO " + b"[" * 100_000 + b"\r\n", b""),
        (INFO, b"null"),
        (INFO, b'{"error":{}}'),
        (INFO, b"[" * 50_000),
    ],
)
def test_nats_server_that_answers_nonsense_is_unavailable(tmp_path: Path, info: bytes, reply: bytes) -> None:
    """nats-py lets errors of Python through. They must not turn metrics into dead letters."""
    with (
        scripted_server(info, reply) as (port, _),
        ledger_sink(f"nats://127.0.0.1:{port}/S", tmp_path, timeout=60.0) as sink,
        pytest.raises(SinkUnavailable, match=r"nats://127\.0\.0\.1"),
    ):
        sink.commit(MetricBatch([metric(1)]))


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
