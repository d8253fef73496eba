"""Jobs on a Redis list, taken by the workers that they are for."""

from __future__ import annotations

import contextlib
import importlib
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.jobs import job_format
from mqttkit.bridge.sinks.types import MetricBatch, SinkOptions
from mqttkit.errors import UsageError
from tests.support.brokers import missing
from tests.support.redis import RedisServer
from tests.support.sinks import metric

LARAVEL_POP = """
local job = redis.call('lpop', KEYS[1])
local reserved = false
if(job ~= false) then
    reserved = cjson.decode(job)
    reserved['attempts'] = reserved['attempts'] + 1
    reserved = cjson.encode(reserved)
    redis.call('zadd', KEYS[2], ARGV[1], reserved)
    redis.call('lpop', KEYS[3])
end
return {job, reserved}
"""
"""LuaScripts::pop of Laravel's Redis queue."""

taken: list[Any] = []


def take(data: Any) -> None:
    """The function that RQ's worker calls."""
    taken.append(data)


def need_library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return missing(f"{name} is not installed")


def push(redis: RedisServer, list_name: str, form: str, job: str, *numbers: int) -> None:
    """Store metrics as jobs; the second attempt of a batch adds nothing."""
    with redis.client() as client:
        client.flushall()
    options = SinkOptions(list_name=list_name, job_format=form, job=job, live=False)
    with contextlib.closing(open_sink(redis.url, options)) as sink:
        sink.open()
        batch = MetricBatch([metric(number, f"id-{number}") for number in numbers])
        assert sink.commit(batch).stored == sink.commit(batch).stored == len(numbers)


def test_laravel_pops_and_reserves_each_job(server: Callable[[str], Any]) -> None:
    """Laravel's own script counts the attempt, keeps the reserved job, and finds one notification per job."""
    redis = server("redis")
    push(redis, "queues:default", "laravel", "App\\Jobs\\StoreMetric", 1, 2)
    with redis.client() as client:
        assert client.lrange("queues:default:notify", 0, -1) == ["1", "1"]
        keys = ("queues:default", "queues:default:reserved", "queues:default:notify")
        job, reserved = (json.loads(text) for text in client.eval(LARAVEL_POP, 3, *keys, 100))
        assert (job["attempts"], reserved["attempts"]) == (0, 1)
        assert job["job"] == job["displayName"] == "App\\Jobs\\StoreMetric"
        assert str(uuid.UUID(job["uuid"])) == job["uuid"]
        assert (job["data"]["value"], job["data"]["dedupe_id"]) == (1, "id-1")
        assert client.llen("queues:default:notify") == 1


def test_rq_runs_each_job(server: Callable[[str], Any]) -> None:
    """RQ's worker finds the queue, and calls the function with the metric."""
    rq = need_library("rq")
    redis = server("redis")
    push(redis, "rq:queue:metrics", "rq", f"{__name__}.take", 1, 2)
    import redis as library

    taken.clear()
    with library.Redis(port=redis.port) as client:
        assert [queue.name for queue in rq.Queue.all(connection=client)] == ["metrics"]
        worker = rq.SimpleWorker(["metrics"], connection=client)
        assert worker.work(burst=True, logging_level="WARNING")
    assert [(data["value"], data["tags"]) for data in taken] == [(1.0, {"unit": "°C"}), (2.0, {"unit": "°C"})]


def test_celery_runs_each_job(server: Callable[[str], Any]) -> None:
    """Celery reads the messages and calls the task with the metric."""
    celery = need_library("celery")
    request = need_library("celery.worker.request")
    redis = server("redis")
    push(redis, "celery", "celery", "tasks.store", 1, 2)
    app = celery.Celery(broker=redis.url)
    got: list[float] = []

    @app.task(name="tasks.store")  # type: ignore[untyped-decorator]
    def store(data: dict[str, Any]) -> None:
        got.append(data["value"])

    with app.connection_for_read() as connection, contextlib.closing(connection.SimpleQueue("celery")) as queue:
        for _ in range(2):
            message = queue.get(timeout=60)
            request.Request(message, app=app, task=store).execute()
            message.ack()
    assert got == [1.0, 2.0]


def test_sidekiq_jobs_have_the_documented_form(server: Callable[[str], Any]) -> None:
    """Pushed on the left, in a known queue, with class, arguments, a jid of 24 hex digits and retries."""
    redis = server("redis")
    push(redis, "queue:metrics", "sidekiq", "StoreMetric", 1, 2)
    with redis.client() as client:
        assert client.smembers("queues") == {"metrics"}
        job = json.loads(client.brpop("queue:metrics", 1)[1])
    assert (job["class"], job["queue"], job["retry"], job["args"][0]["value"]) == ("StoreMetric", "metrics", True, 1)
    assert len(bytes.fromhex(job["jid"])) == 12
    assert job["created_at"] == job["enqueued_at"] > 1_700_000_000


def test_job_from_a_template_file(server: Callable[[str], Any], tmp_path: Path) -> None:
    """Placeholders are replaced wherever they are a whole string."""
    template = tmp_path / "job.json"
    template.write_text(
        '{"type": "$job", "key": "$id", "body": ["$data", {"raw": "$data_text"}], "v": 2, "x": "$data!"}'
    )
    redis = server("redis")
    push(redis, "jobs", f"file:{template}", "Ingest", 1)
    with redis.client() as client:
        job = json.loads(client.lpop("jobs"))
    assert (job["type"], job["key"], job["v"], job["x"]) == ("Ingest", "id-1", 2, "$data!")
    assert job["body"][0] == json.loads(job["body"][1]["raw"])


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "No such file"), ("{", "is not JSON"), ("{}", "has no \\$data"), ("[" * 5_000, "not JSON")],
)
def test_template_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, what: str) -> None:
    """The bridge does not start with it."""
    template = tmp_path / "job.json"
    if text is not None:
        template.write_text(text)
    with pytest.raises(UsageError, match=what):
        job_format(f"file:{template}", list_name="jobs", job="x")
    with pytest.raises(UsageError, match="unknown job format 'bull'"):
        job_format("bull", list_name="jobs", job="x")
