"""`mqttkit bridge tenant` and `dead-letters` as a user meets them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mqttkit.bridge.dead_letters import LetterSelection, retry
from mqttkit.bridge.metric import Metric, MetricParser, MetricRefusal
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import DeadLetter, MetricBatch, SinkOptions, dead_letter
from mqttkit.cli import cli
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import QUEUE_WITHOUT_LIMIT, body, metric_topic, publisher, wait_until
from tests.support.brokers import mosquitto
from tests.support.http_receiver import http_receiver
from tests.support.pipelines import TENANT as PIPELINE_TENANT
from tests.support.pipelines import Known, TroubledSink
from tests.support.redis import redis_server
from tests.support.sinks import postgresql_case

A, B = (f"6f1d7c1e-0000-4000-8000-00000000000{n}" for n in "ab")


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bridge", *words])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("kind", ["yaml", "sqlite", "redis"])
def test_tenants_are_added_listed_and_removed(tmp_path: Path, kind: str) -> None:
    """The same words for each registry; adding a known tenant is reported, removing an unknown one is an error."""
    with contextlib.ExitStack() as stack:
        if kind == "yaml":
            (tmp_path / "tenants.yaml").write_text("# tenants\n")
            address = str(tmp_path / "tenants.yaml")
        elif kind == "sqlite":
            address = f"sqlite:{tmp_path / 'tenants.db'}"
        else:
            address = stack.enter_context(redis_server(tmp_path / "redis")).url + "#known"
        assert run("tenant", "add", A.upper(), "--tenants", address).output == "added\n"
        assert run("tenant", "add", A, "--tenants", address).output == "already known\n"
        run("tenant", "add", B, "--tenants", address)
        assert run("tenant", "list", "--tenants", address).output.split() == [A, B]
        assert run("tenant", "remove", A, "--tenants", address).output == "removed\n"
        assert "not known" in run("tenant", "remove", A, "--tenants", address, code=2).output
        assert "not a UUID" in run("tenant", "add", "x", "--tenants", address, code=2).output


def letters(tmp_path: Path) -> tuple[str, str]:
    """A SQLite sink with four dead letters, and a registry that knows tenant A."""
    known = tmp_path / "tenants.yaml"
    known.write_text(f"- {A}\n")
    address = f"sqlite:{tmp_path / 'metrics.db'}"

    def letter(topic: str, payload: bytes, reason: MetricRefusal, when: int) -> DeadLetter:
        return dead_letter(Message(topic, payload), reason, "why", when)

    with contextlib.closing(open_sink(address, SinkOptions())) as sink:
        sink.open()
        rejected = [
            letter(f"metrics/{A}/a/t", b'{"value":1,"dedupe_id":"x"}', MetricRefusal.TENANT_UNKNOWN, 1_000),
            letter(f"metrics/{B}/a/t", b'{"value":2}', MetricRefusal.TENANT_UNKNOWN, 2_000),
            letter("metrics//x", b"\xff\x00", MetricRefusal.TOPIC_SHAPE, 3_000),
            letter(f"metrics/{A}/a/t", b'{"value":1,"dedupe_id":"x"}', MetricRefusal.TENANT_UNKNOWN, 4_000),
        ]
        sink.commit(MetricBatch([], rejected))
    return address, str(known)


def test_dead_letters_are_listed_shown_and_exported(tmp_path: Path) -> None:
    """One line a letter; one letter whole; all as JSON lines."""
    sink, _ = letters(tmp_path)
    lines = run("dead-letters", "list", "--sink", sink, "--reason", "topic_shape").output.splitlines()
    assert lines == ["3\t1970-01-01T00:00:03.000Z\ttopic_shape\t2\t'metrics//x'"]
    shown = json.loads(run("dead-letters", "show", "3", "--sink", sink).output)
    assert (shown["payload"], shown["payload_text"], shown["size"]) == ("/wA=", "\\xff\x00", 2)
    assert len(shown["sha256"]) == 64
    assert "no dead letter '99'" in run("dead-letters", "show", "99", "--sink", sink, code=2).output
    exported = [json.loads(line) for line in run("dead-letters", "export", "--sink", sink).output.splitlines()]
    assert [line["received_ms"] for line in exported] == [1_000, 2_000, 3_000, 4_000]


def test_dead_letters_are_tried_again(tmp_path: Path) -> None:
    """Letters of a tenant known by now become metrics, once; the others stay."""
    sink, known = letters(tmp_path)
    words = ("dead-letters", "retry", "--sink", sink, "--tenants", known)
    assert run(*words).output == "stored=1 duplicate=1 refused=2\n"
    assert run(*words).output == "stored=0 duplicate=0 refused=2\n"
    run("tenant", "add", B, "--tenants", known)
    assert run(*words, "--reason", "tenant_unknown").output == "stored=1 duplicate=0 refused=0\n"
    assert len(run("dead-letters", "list", "--sink", sink).output.splitlines()) == 1


def refused(address: str, options: SinkOptions, directory: Path) -> tuple[str, ...]:
    """Give the sink a dead letter of tenant A; return the words that retry it, now that A is known."""
    known = directory / "tenants.yaml"
    known.write_text(f"- {A}\n")
    message = Message(f"metrics/{A}/a/t", b'{"value":7,"dedupe_id":"d"}')
    with contextlib.closing(open_sink(address, options)) as sink:
        sink.open()
        sink.commit(MetricBatch([], [dead_letter(message, MetricRefusal.TENANT_UNKNOWN, "why", 1_000)]))
    return ("dead-letters", "retry", "--sink", address, "--tenants", str(known))


def test_retry_makes_the_jobs_that_the_bridge_makes(server: Callable[[str], Any], tmp_path: Path) -> None:
    """--list, --job and --job-format apply to it too."""
    redis = server("redis")
    with redis.client() as client:
        client.flushall()
        words = refused(redis.url, SinkOptions(list_name="queues:default"), tmp_path)
        options = ("--list", "queues:default", "--job", "KeepMetric", "--job-format", "laravel")
        assert run(*words, *options).stdout == "stored=1 duplicate=0 refused=0\n"
        (job,) = client.lrange("queues:default", 0, -1)
    assert (json.loads(job)["displayName"], json.loads(job)["data"]["value"]) == ("KeepMetric", 7)


def test_retry_uses_the_token_of_the_http_sink(tmp_path: Path) -> None:
    """--token-file and --dead-letters apply to it too."""
    token, ledger = tmp_path / "token", str(tmp_path / "ledger.db")
    token.write_text("word\n")
    with http_receiver() as receiver:
        words = refused(receiver.url, SinkOptions(dead_letters=ledger), tmp_path)
        retried = run(*words, "--dead-letters", ledger, "--token-file", str(token))
        assert retried.stdout == "stored=1 duplicate=0 refused=0\n"
        ((headers, metrics),) = receiver.requests
    assert (headers["Authorization"], metrics[0]["value"]) == ("Bearer word", 7)


def test_retry_stores_in_the_table_of_the_bridge(server: Callable[[str], Any], tmp_path: Path) -> None:
    """--table applies to it too."""
    address = postgresql_case(server("postgresql")).address
    words = refused(address, SinkOptions(table="readings"), tmp_path)
    assert run(*words, "--table", "readings").stdout == "stored=1 duplicate=0 refused=0\n"
    assert stored_ids(BridgeSettings(sink=address, table="readings"), "a") == ["d"]


def test_retry_stores_in_the_file_of_a_running_bridge(tmp_path: Path) -> None:
    """Both write the JSONL file in turns: every line is whole, and every metric is there once."""
    path, known = tmp_path / "metrics.jsonl", tmp_path / "known.yaml"
    known.write_text(f"- {A}\n")
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker, publisher(broker.port) as client:
        settings = bridge_settings(tmp_path, broker.port, sink=f"jsonl:{path}")
        with running_bridge(settings) as thread:
            for number in range(300):
                client.publish(metric_topic(A), body(number), qos=1, wait=60)
            wait_until(lambda: thread.bridge.pipeline.books.balance().dead_lettered == 300)
            for number in range(300, 2_000):
                client.publish(metric_topic(), body(number), qos=1, wait=60)
            retry_command = ["bridge", "dead-letters", "retry", "--sink", f"jsonl:{path}", "--tenants", str(known)]
            command = [sys.executable, "-m", "mqttkit", *retry_command]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout == "stored=300 duplicate=0 refused=0\n", done.stderr
            wait_until(lambda: thread.bridge.pipeline.books.balance().stored == 1_700)
    values = [json.loads(line)["value"] for line in path.read_text().splitlines()]
    assert sorted(values) == list(range(2_000))


def test_dead_letters_are_purged_as_chosen(tmp_path: Path) -> None:
    """By identifier, by age, all; without a choice nothing is removed."""
    sink, _ = letters(tmp_path)
    assert "choose letters" in run("dead-letters", "purge", "--sink", sink, code=2).output
    assert run("dead-letters", "purge", "2", "--sink", sink).output == "removed=1\n"
    words = ("dead-letters", "purge", "--sink", sink, "--before", "1970-01-01T00:00:03")
    assert run(*words).output == "removed=1\n"
    assert run("dead-letters", "purge", "--all", "--sink", sink).output == "removed=2\n"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("run",), "no sink"),
        (("run", "--sink", "sqlite:x.db"), "no tenants given"),
        (("run", "--sink", "ftp:x", "--tenants", "t"), "unknown kind of sink"),
        (("run", "--sink", "sqlite:x.db", "--tenants", "/no/such.yaml"), "no such file"),
        (("run", "--sink", "sqlite:x.db", "--tenants", "t", "--topic", "m/{tenant_id}"), "agent_id"),
        (("run", "-L", "mqtt://localhost/metrics/x", "--sink", "sqlite:x.db"), "--topic"),
        (("dead-letters", "list"), "no sink"),
        (("tenant", "list"), "no tenants given"),
        (("worker", "--source", "redis://h", "--sink", "jsonl:x"), "database"),
        (("worker", "--source", "http://h", "--sink", "sqlite:x.db"), "not a Redis address"),
        (("verify", "--in-place", "--sink", "sqlite:x.db"), "no tenants given"),
        (("verify",), "no sink"),
    ],
)
def test_wrong_usage_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str
) -> None:
    """Exit code 2, the cause in one line, nothing left behind."""
    monkeypatch.chdir(tmp_path)
    result = run(*words, code=2)
    assert what in result.output
    assert len(result.output.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if path.name not in ("state", "config")]


def test_dead_letters_of_no_sink_make_none(tmp_path: Path) -> None:
    """A missing file is an error, and is not created."""
    assert "no file" in run("dead-letters", "list", "--sink", f"sqlite:{tmp_path / 'x.db'}", code=1).output
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize("sink", ["http://127.0.0.1:1/in", "influx://127.0.0.1:1/m?rp=week", "jsonl:{}/m.jsonl"])
def test_dead_letters_without_a_ledger_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str) -> None:
    """Another user has another state directory: an empty list would say that there are no letters."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for words in (("list",), ("list", "--dead-letters", str(tmp_path / "missing.db"))):
        assert "no ledger " in run("dead-letters", *words, "--sink", sink.format(tmp_path), code=1).output
    assert list(tmp_path.iterdir()) == []


def test_poisoned_letter_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter that the sink refuses, and one that breaks the parser, stay; the others are stored."""
    sink = TroubledSink(str(tmp_path / "metrics.db"))
    with contextlib.closing(sink):
        sink.open()
        bodies = [b'{"value":%d,"dedupe_id":"x%d"}' % (number, number) for number in range(9)]
        messages = [Message(f"metrics/{PIPELINE_TENANT}/a/t", body) for body in bodies]
        sink.commit(MetricBatch([], [dead_letter(one, MetricRefusal.TENANT_UNKNOWN, "", 1) for one in messages]))
        sink.poison = 3.0
        parser = MetricParser(BridgeSettings.topic, payload_limit=1_000)
        parse = parser.parse

        def break_at_five(topic: str, payload: bytes, received_ms: int, **_: object) -> Metric:
            if b"5" in payload:
                raise RuntimeError("a bug")
            return parse(topic, payload, received_ms)

        monkeypatch.setattr(parser, "parse", break_at_five)
        done = retry(sink, parser, Known(), LetterSelection())  # type: ignore[arg-type]
        assert done == (7, 0, 2)
        assert [json.loads(stored.letter.body)["value"] for stored in sink.letters.read()] == [3, 5]


def test_list_names_the_option_that_is_missing(server: Callable[[str], Any]) -> None:
    """Without --list the letters of a list would look like none."""
    redis = server("redis")
    with redis.client() as client:
        client.flushall()
    with contextlib.closing(open_sink(redis.url, SinkOptions(list_name="jobs"))) as sink:
        sink.open()
        sink.commit(MetricBatch([], [dead_letter(Message("metrics//x"), MetricRefusal.TOPIC_SHAPE, "why", 1)]))
    missing = run("dead-letters", "list", "--sink", redis.url, code=2).output
    assert "has no 'mqttkit:metrics'" in missing
    assert "--list jobs" in missing
    assert "topic_shape" in run("dead-letters", "list", "--sink", redis.url, "--list", "jobs").output
