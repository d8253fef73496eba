"""The Docker engine: connections, images, files in containers. Only this package imports the Docker SDK.

The engine's errors are translated here into an `MqttkitError` that says what to do next.
"""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mqttkit.broker.backends.docker.container_plan import (
    CAPABILITIES,
    HEALTH_COMMAND,
    HEALTH_INTERVAL,
    HEALTH_RETRIES,
    HEALTH_START,
    HEALTH_TIMEOUT,
    HOME,
    LOG_LIMITS,
    MEMORY,
    SECOND,
    ContainerPlan,
)
from mqttkit.errors import LifecycleError, MissingPart, MqttkitError, PermissionMissing, PortTaken, UsageError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

ENGINE_SECONDS = 60.0
"""Time limit of each call."""
ANSWER_SECONDS = 5.0
"""An engine that does not report its version in this time counts as unreachable."""
EXEC_ATTEMPTS, EXEC_PAUSE = 5, 0.5
NOT_ENTERED = "OCI runtime exec failed: exec failed: unable to start container process: error executing setns process"
BROKER_USER = "mosquitto"
"""User of the broker in the image."""
PORT_WORDS = ("port is already allocated", "address already in use", "failed to bind")


@contextlib.contextmanager
def connect_engine(*, seconds: float = ENGINE_SECONDS) -> Iterator[DockerClient]:
    """Connect to the engine that the environment names, and translate every error inside.

    Raises MissingPart if no engine answers.
    """
    client = _connected(int(seconds))
    try:
        with translated_errors():
            yield client
    finally:
        client.close()


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise our error for each error of the SDK."""
    from docker.errors import DockerException
    from requests import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        raise translated(error) from error


def translated(error: Exception) -> MqttkitError:
    """Return our error for an error of the SDK."""
    text = str(getattr(error, "explanation", "") or error)
    if any(word in text for word in PORT_WORDS):
        return PortTaken(f"a port is taken: {text}", hint="Choose another with --port, --websocket-port or --tls-port")
    if getattr(error, "status_code", None) == 409:
        return LifecycleError(f"Docker refuses: {text}", hint="Look at it with: docker ps --all")
    return LifecycleError(f"Docker failed: {text}")


def ensure_image(client: DockerClient, reference: str) -> Image:
    """Return the image, and pull it if it is missing; raise MissingPart if that fails.

    Ask for the image first: the error for running a missing image differs between engines.
    """
    from docker.errors import APIError, ImageNotFound

    with contextlib.suppress(ImageNotFound):
        return client.images.get(reference)
    try:
        return client.images.pull(*_split(reference))
    except APIError as error:
        raise MissingPart(
            f"the image {reference} is not on this machine and cannot be pulled: {error.explanation or error}",
            hint="Without a registry: build one with containers/offline/build, then give --image",
        ) from error


def can_have(client: DockerClient, reference: str) -> bool:
    """Return whether the image is on this machine or in a registry."""
    from docker.errors import APIError, ImageNotFound
    from requests import RequestException

    with contextlib.suppress(ImageNotFound):
        return bool(client.images.get(reference))
    try:
        return bool(client.images.get_registry_data(reference))
    except (APIError, RequestException):
        return False


def pinned(image: Image, reference: str) -> str:
    """Return the reference with the image's digest, or with its id if it was built locally."""
    digests = image.attrs.get("RepoDigests") or []
    digest = digests[0].partition("@")[2] if digests else str(image.id)
    return f"{reference.partition('@')[0]}@{digest}"


def environment(image: Image) -> dict[str, str]:
    """Return the image's environment variables."""
    entries = (image.attrs.get("Config") or {}).get("Env") or []
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def create_volumes(client: DockerClient, plan: ContainerPlan) -> None:
    """Create the broker's volumes with our labels; existing ones stay as they are."""
    for volume in plan.volumes:
        client.volumes.create(volume, labels=plan.labels)


def create(client: DockerClient, plan: ContainerPlan) -> Container:
    """Create the broker's volumes and its container; do not start it."""
    from docker.types import Healthcheck, LogConfig, Ulimit

    if plan.spec.network is not None and not client.networks.list(names=[plan.spec.network]):
        raise UsageError(
            f"Docker has no network {plan.spec.network!r}",
            hint=f"Create it with: docker network create {plan.spec.network}",
        )
    create_volumes(client, plan)
    health = Healthcheck(
        test=["CMD-SHELL", HEALTH_COMMAND],
        interval=HEALTH_INTERVAL * SECOND,
        timeout=HEALTH_TIMEOUT * SECOND,
        start_period=HEALTH_START * SECOND,
        retries=HEALTH_RETRIES,
    )
    restart: Any = {"Name": plan.restart}
    return client.containers.create(
        plan.image,
        name=plan.name,
        labels=plan.labels,
        ports={f"{inner}/tcp": (plan.address(inner), outer) for inner, outer in plan.ports.items()},
        volumes={volume: {"bind": place, "mode": "rw"} for volume, place in plan.volumes.items()},
        tmpfs={f"{HOME}/log": ""},
        healthcheck=health,
        restart_policy=restart,
        mem_limit=MEMORY[plan.spec.tuning],
        ulimits=[Ulimit(name="nofile", soft=plan.descriptors, hard=plan.descriptors)],
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["no-new-privileges:true"],
        log_config=LogConfig(type="json-file", config=LOG_LIMITS),
        network=plan.spec.network,
    )


def read_path(container: Container, path: str) -> bytes | None:
    """Return a file's content, or None if there is no such file; raise UsageError for a symbolic link."""
    from docker.errors import NotFound

    try:
        stream, _ = container.get_archive(path)
    except NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise UsageError(f"{path} in container {container.name} is not a regular file")
        return file.read()


def has_path(container: Container, path: str) -> bool:
    """Return whether the container has a file of this name."""
    from docker.errors import NotFound

    try:
        stream, _ = container.get_archive(path)
    except NotFound:
        return False
    collections.deque(stream, maxlen=0)  # the SDK closes its socket at the end of the archive
    return True


def put_file(container: Container, directory: str, name: str, content: bytes, owner: tuple[int, int]) -> None:
    """Put a file with mode 0600 below an existing directory of the container, subdirectories with mode 0700."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            archive.addfile(_member("/".join(parts[:depth]), owner, kind=tarfile.DIRTYPE, mode=0o700))
        entry = _member(name, owner, mode=0o600)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    if not container.put_archive(directory, buffer.getvalue()):
        raise LifecycleError(f"{directory}/{name} cannot be written in container {container.name}")


def run_in(container: Container, *command: str) -> str:
    """Run a command in the running container and return its output; raise LifecycleError if it fails."""
    text, code = execute(container, *command)
    if code != 0:
        raise LifecycleError(f"{command[0]} in container {container.name} failed: {text}")
    return text


def execute(container: Container, *command: str, user: str = "") -> tuple[str, int]:
    """Run a command in the running container and return output and exit code; without `user`, the image's user.

    If runc fails to enter the container, which happens on a busy machine, the command has not begun: try again.
    """
    for _ in range(EXEC_ATTEMPTS):
        text, code = _execute_once(container, *command, user=user)
        if code == 0 or not text.startswith(NOT_ENTERED):
            break
        time.sleep(EXEC_PAUSE)
    return text, code


def _execute_once(container: Container, *command: str, user: str) -> tuple[str, int]:
    """Run a command; its output is read as a stream, because the SDK's `exec_run` never closes its socket."""
    api: Any = container.client and container.client.api
    identity = api.exec_create(container.id, list(command), user=user)["Id"]
    with reading(api.exec_start(identity, stream=True)) as chunks:
        text = b"".join(chunks).decode(errors="replace").strip()
    return text, int(api.exec_inspect(identity)["ExitCode"])


def signal_broker(container: Container, name: str) -> None:
    """Send a signal to the container's main process from inside, as the broker's user; raise LifecycleError.

    The engine's own `kill` marks the container as stopped by hand, with any signal, and then neither a crash nor
    a restart of the engine starts it again. The image's root has no CAP_KILL.
    """
    text, code = execute(container, "sh", "-c", f"kill -{name} 1", user=BROKER_USER)
    if code != 0:
        raise LifecycleError(f"cannot send SIG{name} to the broker in container {container.name}: {text}")


def one_shot(client: DockerClient, image: str, *command: str, volumes: Any = None) -> str:
    """Run one command in a separate container without a network, and return its output.

    The SDK's `run` would leave behind the volumes that the image declares.
    """
    container = client.containers.create(
        image, list(command[1:]), entrypoint=[command[0]], volumes=volumes, network_mode="none"
    )
    try:
        container.start()
        container.wait()
        return container.logs().decode(errors="replace")
    finally:
        container.remove(force=True, v=True)


@contextlib.contextmanager
def reading(stream: Any) -> Iterator[Iterator[bytes]]:
    """Close a stream of the SDK and its HTTP response, which the SDK's own `close` leaves open."""
    try:
        yield stream
    finally:
        stream.close()
        stream._response.close()


def log_entries(
    container: Container, *, tail: int | None = None, after: str = "", follow: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield time stamp and text of the last `tail` lines (None: all) or of those after a stamp; `follow` waits."""
    last: Any = "all" if tail is None else tail
    since = datetime.fromisoformat(f"{after[:19]}+00:00").timestamp() if after else None
    rest = b""
    with reading(container.logs(stream=True, timestamps=True, tail=last, since=since, follow=follow)) as chunks:
        for chunk in itertools.chain(chunks, [b"\n"]):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                stamp, _, text = line.decode(errors="replace").partition(" ")
                if stamp > after:
                    yield stamp, text


def last_words(container: Container, lines: int = 3) -> str:
    """Return the container's state and its last errors."""
    container.reload()
    state = container.attrs.get("State") or {}
    log = container.logs(tail=50).decode(errors="replace").splitlines()
    errors = [line for line in log if "rror" in line] or log
    return f"{state.get('Status')}, exit code {state.get('ExitCode')}: {'; '.join(errors[-lines:]) or 'empty log'}"


def _connected(seconds: int) -> DockerClient:
    """Return a client that speaks the engine's version.

    The SDK leaves sockets open if no engine answers, so we first try the local socket and ask for the version
    ourselves.
    """
    import docker
    from docker.constants import DEFAULT_DOCKER_API_VERSION
    from docker.errors import DockerException
    from requests import RequestException

    _try_socket()
    with contextlib.closing(
        docker.from_env(version=DEFAULT_DOCKER_API_VERSION, timeout=min(seconds, int(ANSWER_SECONDS)))
    ) as asking:
        try:
            version = asking.api.version(api_version=False)["ApiVersion"]
        except (DockerException, RequestException, KeyError) as error:
            raise _no_engine(error) from error
    return docker.from_env(version=str(version), timeout=seconds)


def _try_socket() -> None:
    """Connect to the engine's local socket once; raise MissingPart or PermissionMissing."""
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not address.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(ANSWER_SECONDS)
        try:
            trial.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise _no_engine(error) from error


def _no_engine(error: Exception) -> MqttkitError:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return PermissionMissing(
            "no permission to use the Docker engine", hint="Join its group: sudo usermod --append --groups docker $USER"
        )
    return MissingPart(
        "no Docker engine answers", hint="Start it with: sudo systemctl start docker, or use --backend process"
    )


def _split(reference: str) -> tuple[str, str | None]:
    """Split a reference into repository and tag or digest, as `pull` wants them."""
    repository, at, digest = reference.partition("@")
    if at:
        return repository, digest
    head, colon, tag = reference.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (reference, "latest")


def _member(name: str, owner: tuple[int, int], *, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, int(time.time())
    entry.uid, entry.gid = owner
    return entry


def state_of(container: Container) -> dict[str, Any]:
    """Return the container's current state."""
    container.reload()
    return dict(container.attrs["State"])


def why_ended(container: Container) -> str:
    """Return why the container is gone or restarts in a loop, or an empty string while it runs."""
    state = state_of(container)
    if state.get("Running") and not state.get("Restarting"):
        return ""
    return last_words(container)
