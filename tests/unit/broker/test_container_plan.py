"""The container's plan, and the translation of the engine's words, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mqttkit.broker import BrokerSpec
from mqttkit.broker.backends.docker import engine
from mqttkit.broker.backends.docker.container_plan import BesideService, ContainerPlan
from mqttkit.broker.backends.docker.engine import environment, pinned, translated
from mqttkit.errors import LifecycleError, PortTaken


def plan(**given: object) -> ContainerPlan:
    spec = BrokerSpec(name="edge", **{"port": 1883, "websocket_port": 9001, **given})  # type: ignore[arg-type]
    return ContainerPlan(spec=spec, image="eclipse-mosquitto:2.0.22", directory="/state/edge")


def test_the_compose_file_is_yaml_and_publishes_on_loopback() -> None:
    """Ports, volumes and limits of the plan; dollars doubled as compose wants them."""
    found = yaml.safe_load(plan(tls_port=8883).compose())
    service = found["services"]["mqttkit-edge"]
    assert service["ports"] == ["127.0.0.1:1883:1883", "127.0.0.1:9001:9001", "127.0.0.1:8883:8883"]
    assert service["volumes"] == ["mqttkit-edge-config:/mosquitto/config", "mqttkit-edge-data:/mosquitto/data"]
    assert found["networks"] == {"default": {"name": "mqttkit-edge"}}
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"] == 512 << 20
    assert "$$(hostname)" in service["healthcheck"]["test"][1]
    assert " $(" not in service["healthcheck"]["test"][1]


def test_the_compose_file_has_services_beside_the_broker() -> None:
    """They start after the broker, keep their state in a volume, and share its network; a dollar stays a dollar."""
    beside = BesideService(
        suffix="bridge", image="i", command=["run", "$x"], mounts=["./conf:/etc/x:ro"], state="/var/lib/x", port=9464,
        health=["true"], stop_seconds=20, comment=["first"],
    )  # fmt: skip
    text = plan(network="plant").compose([beside])
    found = yaml.safe_load(text)
    service = found["services"]["mqttkit-edge-bridge"]
    assert "\n  # first\n" in text
    assert service["command"] == ["run", "$$x"]
    assert service["volumes"] == ["./conf:/etc/x:ro", "mqttkit-edge-bridge:/var/lib/x"]
    assert found["volumes"]["mqttkit-edge-bridge"] == {}
    assert service["depends_on"] == ["mqttkit-edge"]
    assert service["networks"] == ["plant"]
    assert service["ports"] == ["127.0.0.1:9464:9464"]


def test_an_ipv6_address_stands_in_brackets() -> None:
    """[::1]:1883."""
    service = yaml.safe_load(plan(listen="::1").compose())["services"]["mqttkit-edge"]
    assert service["ports"][0] == "[::1]:1883:1883"


def test_tuning_sets_memory_and_descriptors() -> None:
    """Small is small, and libwebsockets never sees an unlimited number."""
    assert plan(tuning="small").descriptors == 1_024
    assert plan(tuning="high-traffic").descriptors == 50_064
    assert plan(overrides={"max_connections": 20_000}).descriptors == 20_064
    assert plan(temporary=True).restart == "no"


def test_listeners_are_those_that_are_published() -> None:
    """TLS with client certificates where asked for."""
    found = plan(tls_port=8883, client_certificates=True).listeners()
    assert [(listener.port, listener.tls, listener.client_certificates) for listener in found] == [
        (1883, False, False),
        (9001, False, False),
        (8883, True, True),
    ]
    assert len(plan(websocket_port=None).listeners()) == 1


@pytest.mark.parametrize(
    ("text", "status", "kind", "word"),
    [
        ("driver failed: Bind for 127.0.0.1:1883 failed: port is already allocated", 500, PortTaken, "1883"),
        ("listen tcp4 127.0.0.1:1883: bind: address already in use", 500, PortTaken, "1883"),
        ("Conflict. The container name is already in use", 409, LifecycleError, "Docker refuses"),
        ("something else", 500, LifecycleError, "Docker failed: something else"),
    ],
)
def test_what_the_engine_says_becomes_ours(text: str, status: int, kind: type[Exception], word: str) -> None:
    """A taken port of either wording, a taken name, and the rest."""
    error = Exception(text)
    error.explanation, error.status_code = text, status  # type: ignore[attr-defined]
    found = translated(error)
    assert type(found) is kind
    assert word in str(found)


def test_an_image_is_pinned_by_digest_or_id() -> None:
    """The registry's digest if there is one; otherwise the image's id."""
    pulled = SimpleNamespace(attrs={"RepoDigests": ["eclipse-mosquitto@sha256:abc"]}, id="sha256:id")
    built = SimpleNamespace(attrs={"RepoDigests": []}, id="sha256:id")
    assert pinned(pulled, "eclipse-mosquitto:2.0.22") == "eclipse-mosquitto:2.0.22@sha256:abc"  # type: ignore[arg-type]
    assert pinned(built, "mine:1") == "mine:1@sha256:id"  # type: ignore[arg-type]
    image = SimpleNamespace(attrs={"Config": {"Env": ["PATH=/bin", "VERSION=2.0.22", "EMPTY="]}})
    assert environment(image)["VERSION"] == "2.0.22"  # type: ignore[arg-type]


def test_compose_has_log_limits_the_network_and_numeric_addresses():
    spec = BrokerSpec(name="site", port=1883, tls_port=8883, listen="localhost", network="plant")
    plan = ContainerPlan(spec=spec, image="image:1", directory="/state")
    found = yaml.safe_load(plan.compose())
    service = found["services"]["mqttkit-site"]
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    assert service["networks"] == ["plant"]
    assert found["networks"] == {"plant": {"external": True}}
    assert all(entry.startswith(("127.0.0.1:", "[::1]:")) for entry in service["ports"])


def test_a_command_that_runc_could_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that ran and failed."""
    answers = [(f"{engine.NOT_ENTERED}: exit status 1: unknown", 126), ("done", 0), ("no", 1)]
    monkeypatch.setattr(engine, "_execute_once", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(engine, "EXEC_PAUSE", 0.0)
    container: Any = None
    assert engine.execute(container, "true") == ("done", 0)
    assert engine.execute(container, "false") == ("no", 1)
