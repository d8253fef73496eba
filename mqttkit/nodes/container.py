"""Any image as a node of a simulation: start a container, reach it, remove it.

Each container has a label with its maker's process. The next node that starts removes containers whose maker is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mqttkit.broker.backends.docker.engine import connect_engine, ensure_image, execute, last_words, put_file
from mqttkit.broker.backends.process_table import ProcessId, identify
from mqttkit.broker.probe import Login
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError
from mqttkit.settings import BrokerSettings

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

LABEL = "org.mqttkit.node"
"""Label with the maker's process, as `pid:start`."""
READY_SECONDS = 30.0
STOP_SECONDS = 2
POLL_SECONDS = 0.05
HANDLED_ELSEWHERE = (403, 404, 409)
"""Status codes of the engine: in use, gone, or being removed by another process."""


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """The specification of a container."""

    image: str
    """Image reference; pulled if it is missing."""
    name: str = ""
    """Name of the container and host name on a network; empty for a random name."""
    command: Sequence[str] = ()
    """Command that replaces the image's."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables. Every user of the engine can read them: no secrets."""
    ports: Sequence[int] = ()
    """TCP ports of the container to publish, each on a free port of 127.0.0.1."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content by absolute path; copied in before the start, mode 0600, owned by root."""
    network: str | None = None
    """Docker network to join; None for the engine's default."""


class DockerNode:
    """A container as a context manager. Only one thread at a time may call its methods."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.name = spec.name or f"mqttkit-node-{secrets.token_hex(4)}"
        self._stack = contextlib.ExitStack()
        self._container: Container | None = None
        self._published: dict[int, int | None] = {}

    def __enter__(self) -> DockerNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the container; a failure leaves nothing behind.

        Raises MissingPart if the engine or the image is missing, LifecycleError if the name is in use.
        """
        if self._container is not None:
            raise LifecycleError(f"node {self.name} is already running")
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(connect_engine())
            remove_orphans(client)
            ensure_image(client, self.spec.image)
            container = self._create(client)
            stack.callback(container.remove, force=True, v=True)
            for path, content in self.spec.files.items():
                directory, _, name = path.rpartition("/")
                put_file(container, directory or "/", name, content, (0, 0))
            container.start()
            container.reload()
            self._published = {inner: _host_port(container, inner) for inner in self.spec.ports}
            self._stack = stack.pop_all()
        self._container = container

    def stop(self) -> None:
        """Stop and remove the container with its volumes; do nothing if it is already gone."""
        if self._container is None:
            return
        container, self._container = self._container, None
        with self._stack:
            container.stop(timeout=STOP_SECONDS)

    def port(self, inner: int) -> int:
        """Return the port of 127.0.0.1 that leads to a published port of the container.

        Raises LifecycleError if it is not published, or with the last output of a container that has ended.
        """
        if inner not in self._published:
            raise LifecycleError(f"port {inner} of node {self.name} is not published. Add it to `ports`")
        outer = self._published[inner]
        if outer is None:
            raise LifecycleError(f"node {self.name} is not ready: {self._exit_message()}")
        return outer

    def broker_settings(self, inner: int = 1883) -> BrokerSettings:
        """Return the settings with which clients reach a broker in the container."""
        return BrokerSettings(host="127.0.0.1", port=self.port(inner))

    def wait_for_broker(self, inner: int = 1883, *, seconds: float = READY_SECONDS) -> float:
        """Wait until a broker in the container answers CONNECT; return the seconds that took."""
        login = Login(host="127.0.0.1", port=self.port(inner))
        return wait_ready(login, seconds=seconds, died=self._exit_message)

    def wait_until(self, done: Callable[[], bool], *, seconds: float = READY_SECONDS) -> None:
        """Wait until `done()`; raise LifecycleError with the container's last output on a timeout or if it ends."""
        deadline = time.monotonic() + seconds
        while not done():
            death = self._exit_message()
            if death or time.monotonic() > deadline:
                raise LifecycleError(f"node {self.name} is not ready: {death or last_words(self._running())}")
            time.sleep(POLL_SECONDS)

    def run(self, *command: str) -> tuple[str, int]:
        """Run a command in the container and return its output and exit code."""
        return execute(self._running(), *command)

    def logs(self) -> str:
        """Return the container's output so far."""
        return self._running().logs().decode(errors="replace")

    def _create(self, client: DockerClient) -> Container:
        spec = self.spec
        maker = identify(os.getpid())
        more: dict[str, Any] = {"network": spec.network} if spec.network else {}
        return client.containers.create(
            spec.image,
            list(spec.command) or None,
            name=self.name,
            hostname=self.name[:63],
            environment=dict(spec.environment),
            labels={LABEL: f"{maker.pid}:{maker.start}"},
            ports={f"{inner}/tcp": ("127.0.0.1", 0) for inner in spec.ports},  # the engine picks a free port
            **more,
        )

    def _running(self) -> Container:
        if self._container is None:
            raise LifecycleError(f"node {self.name} is not running")
        return self._container

    def _exit_message(self) -> str:
        container = self._running()
        container.reload()
        return "" if container.status == "running" else last_words(container)


def build_image(directory: Path, tag: str, *, arguments: Mapping[str, str] | None = None) -> str:
    """Build the Dockerfile of a directory and return the image's id; raise LifecycleError with the last lines."""
    from docker.errors import BuildError

    if not (directory / "Dockerfile").is_file():
        raise LifecycleError(f"{directory} has no Dockerfile")
    with connect_engine() as client:
        try:
            image, _ = client.images.build(
                path=str(directory), tag=tag, rm=True, buildargs=dict(arguments or {}), forcerm=True
            )
        except BuildError as error:
            raise LifecycleError(f"cannot build {directory}: {error.msg}") from error
        return str(image.id)


@contextlib.contextmanager
def docker_network(name: str = "", *, internal: bool = True) -> Iterator[str]:
    """Create a network for nodes and remove it at the end; an internal network has no route outside."""
    maker = identify(os.getpid())
    with connect_engine() as client:
        remove_orphans(client)
        labels = {LABEL: f"{maker.pid}:{maker.start}"}
        network = client.networks.create(
            name or f"mqttkit-{secrets.token_hex(4)}", driver="bridge", internal=internal, labels=labels
        )
        try:
            yield str(network.name)
        finally:
            network.remove()


def remove_orphans(client: DockerClient) -> int:
    """Remove the containers and networks whose maker is gone; return their number."""
    containers = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    orphans = [container for container in containers if not _maker_alive(container.labels)]
    for container in orphans:
        _remove(container, force=True, v=True)
    networks = [
        network
        for network in client.networks.list(filters={"label": LABEL})
        if not _maker_alive(network.attrs.get("Labels") or {})
    ]
    for network in networks:
        _remove(network)
    return len(orphans) + len(networks)


def _remove(thing: Container | Network, **options: bool) -> None:
    """Remove a container or network that another process may be removing as well."""
    from docker.errors import APIError

    try:
        thing.remove(**options)
    except APIError as error:
        if error.status_code not in HANDLED_ELSEWHERE:
            raise


def _host_port(container: Container, inner: int) -> int | None:
    """Return the host port of a published port; None if the container has already ended."""
    bindings = container.ports.get(f"{inner}/tcp")
    return int(bindings[0]["HostPort"]) if bindings else None


def _maker_alive(labels: Mapping[str, str]) -> bool:
    pid, _, start = labels.get(LABEL, "").partition(":")
    return pid.isdigit() and start.isdigit() and ProcessId(int(pid), int(start)).alive
