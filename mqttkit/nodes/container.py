"""Any image as a node of a simulation: start a container, reach it, remove it.

Each container has a label with its maker's process. The next node that starts removes containers whose maker is gone,
provided that it can see that: not those of another machine or PID namespace.
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

from mqttkit.broker.backends.docker.engine import (
    connect_engine,
    ensure_image,
    execute,
    last_words,
    put_file,
    translated_errors,
)
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
"""Label with the maker's process: `boot id:PID namespace:pid:start`."""
BOOT_ID, NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
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
            stack.callback(_remove, container, force=True, v=True)
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
        from docker.errors import NotFound

        if self._container is None:
            return
        container, self._container = self._container, None
        with self._stack, contextlib.suppress(NotFound):
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
        with translated_errors():
            return execute(self._running(), *command)

    def logs(self) -> str:
        """Return the container's output so far."""
        with translated_errors():
            return self._running().logs().decode(errors="replace")

    def _create(self, client: DockerClient) -> Container:
        spec = self.spec
        more: dict[str, Any] = {"network": spec.network} if spec.network else {}
        return client.containers.create(
            spec.image,
            list(spec.command) or None,
            name=self.name,
            hostname=self.name[:63],
            environment=dict(spec.environment),
            labels={LABEL: _maker()},
            ports={f"{inner}/tcp": ("127.0.0.1", 0) for inner in spec.ports},  # the engine picks a free port
            **more,
        )

    def _running(self) -> Container:
        if self._container is None:
            raise LifecycleError(f"node {self.name} is not running")
        return self._container

    def _exit_message(self) -> str:
        container = self._running()
        with translated_errors():
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
    with connect_engine() as client:
        remove_orphans(client)
        labels = {LABEL: _maker()}
        network = client.networks.create(
            name or f"mqttkit-{secrets.token_hex(4)}", driver="bridge", internal=internal, labels=labels
        )
        try:
            yield str(network.name)
        finally:
            network.remove()


def remove_orphans(client: DockerClient) -> int:
    """Remove the containers and networks whose maker is gone; return their number."""
    local = client.api.base_url.startswith("http+docker")  # a local socket
    containers = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    orphans = [container for container in containers if _maker_gone(container.labels, local=local)]
    for container in orphans:
        _remove(container, force=True, v=True)
    networks = [
        network
        for network in client.networks.list(filters={"label": LABEL})
        if _maker_gone(network.attrs.get("Labels") or {}, local=local)
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


def _maker() -> str:
    """Return what identifies this process among those of every machine and PID namespace."""
    own = identify(os.getpid())
    return f"{_here()}:{own.pid}:{own.start}"


def _here() -> str:
    return f"{BOOT_ID.read_text().strip()}:{NAMESPACE.readlink().name.strip('pid:[]')}"


def _maker_gone(labels: Mapping[str, str], *, local: bool) -> bool:
    """Return whether we know that the maker has ended.

    A process of another PID namespace is not visible. One of another boot has ended if the engine is `local`;
    otherwise it may run on another machine.
    """
    try:
        boot, namespace, pid, start = labels.get(LABEL, "").split(":")
        maker = ProcessId(int(pid), int(start))
    except ValueError:
        return False
    if boot != BOOT_ID.read_text().strip():
        return local
    return f"{boot}:{namespace}" == _here() and not maker.alive
