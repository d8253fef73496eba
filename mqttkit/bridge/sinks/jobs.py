"""The forms of a job on a Redis list: mqttkit's own, those of common job queues, and a template file."""

from __future__ import annotations

import base64
import json
import pickle
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.errors import UsageError

_LATIN = re.compile(r"[\x80-\xff]")
JOB_FORMATS = ("mqttkit", "laravel", "rq", "celery", "sidekiq")


@dataclass(frozen=True, kw_only=True)
class JobFormat:
    """How a queue's workers expect a job."""

    make: Callable[[Metric, str], tuple[str, str]]
    """From a metric and the job's identifier: what to push, and a JSON object with the fields of a hash, or nothing."""
    left: bool = False
    """Push on the left: workers take jobs from the right."""
    notify: str = ""
    """Suffix of a list that gets an entry for each job, to wake workers that block on it."""
    hash_prefix: str = ""
    """Begins the key of the hash."""
    registry: tuple[str, str] | None = None
    """A set, and its member that makes this queue known."""


def job_format(name: str, *, list_name: str, job: str) -> JobFormat:
    """Return a format by name, or from a template file; raise UsageError.

    `list_name` is the key of the list, `job` the name of the class, function or task.
    """
    queue = list_name.rpartition(":")[2]
    if name == "mqttkit":
        return JobFormat(make=lambda metric, _id: (_own(metric, job), ""))
    if name == "laravel":
        return JobFormat(make=lambda metric, job_id: (_laravel(metric, job, job_id), ""), notify=":notify")
    if name == "celery":
        return JobFormat(make=lambda metric, job_id: (_celery(metric, job, job_id, list_name), ""), left=True)
    if name == "sidekiq":
        return JobFormat(
            make=lambda metric, job_id: (_sidekiq(metric, job, job_id, queue), ""),
            left=True,
            registry=("queues", queue),
        )
    if name == "rq":
        return JobFormat(
            make=lambda metric, job_id: (job_id, _rq(metric, job, queue)),
            hash_prefix="rq:job:",
            registry=("rq:queues", f"rq:queue:{queue}"),
        )
    kind, _, path = name.partition(":")
    if kind != "file" or not path:
        hint = f"Formats: {', '.join(JOB_FORMATS)}, or file:PATH of a template"
        raise UsageError(f"unknown job format {name!r}", hint=hint)
    template = _template(Path(path).expanduser())
    return JobFormat(make=lambda metric, job_id: (_filled(template, metric, job, job_id), ""))


def _own(metric: Metric, job: str) -> str:
    one = {"job": job, "id": metric.dedupe_id or uuid.uuid4().hex, "data": json_record(metric)}
    return encode_json(one).decode()


def _laravel(metric: Metric, job: str, job_id: str) -> str:
    """Return the payload that Laravel's queue worker pops; it calls the method `fire` of the class."""
    payload = {
        "uuid": job_id,
        "displayName": job,
        "job": job,
        "maxTries": None,
        "maxExceptions": None,
        "failOnTimeout": False,
        "backoff": None,
        "timeout": None,
        "data": json_record(metric),
        "id": job_id,
        "attempts": 0,
    }
    return encode_json(payload).decode()


def _celery(metric: Metric, job: str, job_id: str, queue: str) -> str:
    """Return a message of Celery's protocol 2, with the metric as the only argument."""
    body = encode_json([[json_record(metric)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = {
        "lang": "py",
        "task": job,
        "id": job_id,
        "root_id": job_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "eta": None,
        "expires": None,
        "origin": "mqttkit",
    }
    properties = {
        "correlation_id": job_id,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": job_id,
    }
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return encode_json(message).decode()


def _sidekiq(metric: Metric, job: str, job_id: str, queue: str) -> str:
    now = time.time()
    one = {
        "class": job,
        "args": [json_record(metric)],
        "queue": queue,
        "jid": job_id.replace("-", "")[:24],
        "retry": True,
        "created_at": now,
        "enqueued_at": now,
    }
    return encode_json(one).decode()


def _rq(metric: Metric, job: str, queue: str) -> str:
    """Return the fields of RQ's job.

    Pickle's first protocol is text, which the script can pass on, once characters of Latin-1 are escaped too.
    """
    data = {**metric._asdict(), "tags": json.loads(metric.tags) if metric.tags else None}
    pickled = pickle.dumps((job, None, (data,), {}), protocol=0).decode("latin-1")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = {
        "created_at": now,
        "enqueued_at": now,
        "data": _LATIN.sub(lambda found: f"\\u{ord(found[0]):04x}", pickled),
        "origin": queue,
        "description": f"{job}({metric.metric_name})",
        "status": "queued",
        "timeout": "180",
        "started_at": "",
        "ended_at": "",
    }
    return json.dumps(fields)


def _template(path: Path) -> Any:
    try:
        template = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the job template {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the job template {path} is not JSON: {error}") from error
    if "$data" not in json.dumps(template):
        raise UsageError(f"the job template {path} has no $data", hint="Put it in the place of the metric")
    return template


def _filled(template: Any, metric: Metric, job: str, job_id: str) -> str:
    values = {
        "$job": job,
        "$id": metric.dedupe_id or job_id,
        "$uuid": job_id,
        "$now": time.time(),
        "$data": json_record(metric),
        "$data_text": encode_json(json_record(metric)).decode(),
    }
    return encode_json(_replaced(template, values)).decode()


def _replaced(part: Any, values: dict[str, Any]) -> Any:
    """Return the template with each string that is a placeholder replaced by its value."""
    if isinstance(part, dict):
        return {key: _replaced(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [_replaced(value, values) for value in part]
    return values.get(part, part) if isinstance(part, str) else part
