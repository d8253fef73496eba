"""Fixtures that every test may ask for."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.docker import Engine, docker_engine

HERE = Path(__file__).parent
ORDER = ["system", "integration", "unit", "benchmarks", "support"]

# A shell starts its background jobs with SIGINT ignored, and each command that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something of the machine, not of the code: each test has its time limit anyway.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("any"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "any")  # in CI the same examples each time


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest tests; keep the tests of one Docker engine on one worker, since they look at all of it."""
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(HERE).parts[0]))
    for item in items:
        if "session_engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("docker"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_report_to_serializable(report: object) -> Generator[None, Any, Any]:
    """Escape lone surrogates in what a test logged: a worker cannot send them, and would end."""
    return _escaped((yield))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _escaped(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_escaped(inside) for inside in value)
    return value


@pytest.fixture(scope="session")
def shared_broker(_shared_mqtt_broker: TestBroker) -> TestBroker:
    """Return the pytest plugin's broker, for all tests that only need some broker: use your own topics."""
    return _shared_mqtt_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto of the test's own, to be stopped, killed and restarted."""
    with mosquitto(tmp_path / "mosquitto") as running:
        yield running


@pytest.fixture(scope="session")
def session_engine() -> Iterator[Engine]:
    """A Docker engine that has the offline image: the machine's, or one of the session's own."""
    with docker_engine() as engine:
        yield engine


@pytest.fixture
def docker_host(session_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the test and its subprocesses find the engine."""
    monkeypatch.setenv("DOCKER_HOST", session_engine.address)
    return session_engine.address


@pytest.fixture
def topic() -> str:
    """A topic prefix that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the user's own profile, state and settings out of the tests, subprocesses included."""
    for name in [name for name in os.environ if name.startswith("MQTTKIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Undo what a command that ran in this process did to the logger: the next test may look at its records."""
    logger = logging.getLogger("mqttkit")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:]
