"""The pytest plugin:

`mqtt_broker`, `mqtt_client`, `mqtt_recorder`, `mqtt_proxy`. It imports nothing of mqttkit until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mqttkit.client.connecting import Client
    from mqttkit.testing.broker import BrokerOptions, TestBroker
    from mqttkit.testing.proxy import TestProxy
    from mqttkit.testing.recorder import MessageRecorder

BACKENDS = ("auto", "docker", "process", "embedded")
SCOPES = ("session", "package", "module", "class", "function")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("mqttkit", "MQTT brokers for tests")
    group.addoption("--mqtt-broker-backend", choices=BACKENDS, default="auto", help="What runs the broker (auto).")
    group.addoption("--mqtt-broker-scope", choices=SCOPES, default="session", help="Who shares a broker (session).")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        "mqtt_broker(users={name: password}, acl={name: [rule]}, tls=False, backend='auto'): "
        "run a separate broker with these features for the test",
    )
    config.addinivalue_line(
        "markers", "mqtt_proxy(*rules, seed=0): faults that mqtt_proxy makes, such as 'drop PUBACK 3'"
    )


def _scope(fixture_name: str, config: pytest.Config) -> Any:  # noqa: ARG001  # pytest passes both by name
    return config.getoption("--mqtt-broker-scope")


def _options(request: pytest.FixtureRequest, given: dict[str, Any]) -> BrokerOptions:
    from mqttkit.testing.broker import BrokerOptions

    return BrokerOptions(**{"backend": request.config.getoption("--mqtt-broker-backend"), **given})


@pytest.fixture(scope=_scope)
def _shared_mqtt_broker(request: pytest.FixtureRequest) -> Iterator[TestBroker]:
    """Run a broker that several tests share."""
    from mqttkit.testing.broker import run_broker

    with run_broker(_options(request, {})) as broker:
        yield broker


@pytest.fixture
def mqtt_broker(request: pytest.FixtureRequest) -> Iterator[TestBroker]:
    """A real broker on loopback: the shared one, or a separate one if the test has the marker `mqtt_broker`."""
    marker = request.node.get_closest_marker("mqtt_broker")
    if marker is None:
        yield request.getfixturevalue("_shared_mqtt_broker")
        return
    from mqttkit.testing.broker import run_broker

    with run_broker(_options(request, marker.kwargs)) as broker:
        yield broker


@pytest.fixture
def mqtt_client(mqtt_broker: TestBroker) -> Iterator[Client]:
    """A connected client of `mqtt_broker`."""
    with mqtt_broker.connect() as client:
        yield client


@pytest.fixture
def mqtt_recorder(mqtt_broker: TestBroker) -> Iterator[MessageRecorder]:
    """A recorder of everything that goes over `mqtt_broker` during the test."""
    from mqttkit.testing.recorder import MessageRecorder

    with MessageRecorder(mqtt_broker.settings()) as recorder:
        yield recorder


@pytest.fixture
def mqtt_proxy(request: pytest.FixtureRequest, mqtt_broker: TestBroker) -> Iterator[TestProxy]:
    """A proxy in front of `mqtt_broker` that makes the faults of the marker `mqtt_proxy`."""
    from mqttkit.testing.proxy import TestProxy

    marker = request.node.get_closest_marker("mqtt_proxy")
    rules, options = (marker.args, marker.kwargs) if marker is not None else ((), {})
    proxy = TestProxy(mqtt_broker, rules, **options)
    with proxy:
        yield proxy
