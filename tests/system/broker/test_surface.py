"""One command surface over three backends: the same words do the same, or are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest

from mqttkit.broker import LACKS, Feature
from tests.support.brokers import free_port, need
from tests.support.docker import IMAGE

pytestmark = pytest.mark.system

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.xdist_group("docker")), "process", "embedded"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend; Docker with an engine that has the offline image."""
    if request.param == "docker":
        request.getfixturevalue("docker_host")
    need("mosquitto")
    return str(request.param)


@pytest.fixture
def broker(backend: str) -> Iterator[Run]:
    """A broker of the backend, as a function that runs `mqttkit broker WORDS --name …`."""
    name = f"t{uuid.uuid4().hex[:8]}"

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mqttkit", "broker", *words, "--name", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    image = ["--image", IMAGE] if backend == "docker" else []
    run("up", "--backend", backend, "--port", str(free_port()), *image)
    yield run
    run("down", "--volumes", "--yes")


def test_each_command_works_or_is_refused_by_name(broker: Run, backend: str):
    lacks = LACKS[backend]
    status = json.loads(broker("status", "--json").stdout)
    assert (status["state"], status["backend"]) == ("up", backend)
    assert list(status["lacks"]) == list(lacks.values())
    assert "was up already" in broker("up").stdout
    port = json.loads(broker("restart", "--json").stdout)["port"]
    assert port == status["port"]
    refused = {
        "stats": Feature.STATISTICS,
        "reload": Feature.RELOAD,
        "user list": Feature.USERS,
        "acl list": Feature.USERS,
    }
    for words, feature in refused.items():
        done = broker(*words.split(), code=2 if feature in lacks else 0)
        assert lacks.get(feature, "") in done.stderr
    assert broker("logs", "--tail", "1").stdout.count("\n") == 1
    summary = json.loads(broker("doctor", "--json").stdout)["summary"]
    assert summary["fail"] == 0
    broker("down")
    assert json.loads(broker("status", "--json", code=3).stdout)["state"] == "down"
    assert "was not running" in broker("down").stdout
    broker("up")


def test_status_names_what_it_uses(broker: Run, backend: str):
    found = json.loads(broker("status", "--json").stdout)
    assert found["memory_bytes"] > 500_000
    assert found["cpu_percent"] >= 0
    assert found["uptime"] >= 0
    assert (found["connections"] is None) == (backend == "embedded")
    assert (found["last_save"] is None) == (backend == "embedded")
