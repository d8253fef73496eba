"""Mosquitto in a container of the Docker engine."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqttkit.broker.accounts.initial_acl import acl_for_start
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.backends.directory_snapshot import DirectorySnapshot, empty
from mqttkit.broker.backends.docker import engine, inspection
from mqttkit.broker.backends.docker.container_plan import (
    DEFAULT_IMAGE,
    DIRECTORY_LABEL,
    HOME,
    INNER_WEBSOCKET_PORT,
    LABEL,
    PROBE_HOME,
    SECOND,
    ContainerPlan,
)
from mqttkit.broker.backends.docker.engine import connect_engine
from mqttkit.broker.backends.local_process import READY_SECONDS, STOP_SECONDS, operator_login, with_ports
from mqttkit.broker.certificates.initial_certificate import first_certificate
from mqttkit.broker.file_facts import FileFact
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.mosquitto.operator_profile import mosquitto_profile
from mqttkit.broker.ports import free_port, require_free
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, read_profile, save_profile, save_spec
from mqttkit.broker.protocol import Resources, Running, UpResult
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError, MissingPart, MqttkitError, PortTaken

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

USABLE_SECONDS = 3.0
DATABASE = "data/mosquitto.db"


class DockerBroker:
    """A container with two named volumes: `…-config` with conf, users, ACL and certificates, and `…-data`."""

    backend = "docker"

    def __init__(self, spec: BrokerSpec, paths: BrokerPaths) -> None:
        self.spec = spec
        self.paths = paths

    @classmethod
    def unusable(cls, image: str = DEFAULT_IMAGE) -> str:
        """Return why Docker cannot be used here, or an empty string: an engine, and the image to be had."""
        try:
            with connect_engine(seconds=USABLE_SECONDS) as client:
                if engine.can_have(client, image):
                    return ""
                return f"the image {image} is not here and no registry answers"
        except MqttkitError as error:
            return error.message

    @property
    def plan(self) -> ContainerPlan:
        """What the container is to be."""
        image = self.spec.image or DEFAULT_IMAGE
        return ContainerPlan(spec=self.spec, image=image, directory=str(self.paths.directory))

    def up(self) -> UpResult:
        """Start the container and return when the broker answered; whatever fails undoes a partial start."""
        self.spec.check()
        profile = read_profile(self.paths)
        with connect_engine() as client:
            container = self._container(client)
            if container is not None and container.status == "running" and profile is not None:
                wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: _cause(container))
                return UpResult(profile=profile, already=True, seconds=0.0)
            image = engine.ensure_image(client, self.plan.image)
            files = DirectorySnapshot.of(self.paths)
            before = self._volumes(client)
            try:
                return self._start(client, image, profile)
            except BaseException:
                self._undo(client, keep=before)
                files.restore(self.paths.directory)
                raise

    def down(self, *, volumes: bool = False) -> bool:
        """Stop and remove the container; with `volumes` its volumes and our files too."""
        with connect_engine() as client:
            container = self._container(client)
            ran = container is not None and container.status == "running"
            self._remove_container(client)
            if volumes:
                self._undo(client, keep=set())
                empty(self.paths.directory)
        return ran

    def running(self) -> Running | None:
        """Return the container that runs, or None."""
        with connect_engine() as client:
            container = self._container(client)
            state = engine.state_of(container) if container is not None else {}
            if container is None or not state.get("Running"):
                return None
            started = re.sub(r"(\.\d{1,6})\d*Z$", r"\1+00:00", str(state["StartedAt"]))
            stamp = datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp()
            return Running(
                pid=int(state["Pid"]),
                started=stamp,
                identity=f"container {container.short_id}",
                health=(state.get("Health") or {}).get("Status"),
            )

    def version(self) -> tuple[int, ...]:
        """Return the version of the image's mosquitto."""
        with connect_engine() as client:
            return _version(client, engine.ensure_image(client, self.plan.image))

    def signal(self, name: str) -> None:
        """Send HUP or USR1 to the running broker."""
        with connect_engine() as client:
            self._require_running(client).kill(signal=f"SIG{name}")

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None; works while the broker is down too."""
        with connect_engine() as client, self._holder(client) as container:
            return None if container is None else engine.read_path(container, f"{HOME}/{name}")

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file: put beside it, then renamed; owned by the image's broker user, mode 0600."""
        with connect_engine() as client, self._holder(client, make=True) as container:
            assert container is not None
            self._write(container, name, content)

    def remove_file(self, name: str) -> None:
        """Remove a file."""
        with connect_engine() as client, self._holder(client) as container:
            if container is None or engine.read_path(container, f"{HOME}/{name}") is None:
                return
            if container.status == "running":
                engine.run_in(container, "rm", "-f", f"{HOME}/{name}")
            else:
                engine.one_shot(client, self.plan.image, "rm", "-f", f"{HOME}/{name}", volumes=self._mounts())

    def file_stamp(self, name: str) -> str | None:
        """Return inode, time and size of a file in the running container."""
        with connect_engine() as client:
            text, code = engine.execute(self._require_running(client), "stat", "-c", "%i:%Y:%s", f"{HOME}/{name}")
        return text if code == 0 else None

    def log_lines(self, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the log's last `tail` lines; with `follow`, go on as lines come."""
        with connect_engine() as client:
            container = self._container(client)
            if container is None:
                return
            last: Any = "all" if tail is None else tail
            rest = b""
            with engine.reading(container.logs(stream=True, follow=follow, tail=last)) as chunks:
                for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")

    def resources(self) -> Resources | None:
        """Return what the container uses, or None where none runs."""
        with connect_engine() as client:
            container = self._container(client)
            if container is None or container.status != "running":
                return None
            found: Any = container.stats(stream=False, one_shot=True)
            memory = found["memory_stats"]
            spare = memory.get("stats", {}).get("inactive_file", memory.get("stats", {}).get("total_inactive_file", 0))
            return Resources(
                memory_bytes=int(memory.get("usage", 0)) - int(spare),
                cpu_seconds=found["cpu_stats"]["cpu_usage"]["total_usage"] / SECOND,
                limit_bytes=memory.get("limit"),
            )

    def last_save(self) -> float | None:
        """Return when the database was written, seconds since the epoch, or None."""
        with connect_engine() as client:
            return inspection.last_save(self._require_running(client), f"{HOME}/{DATABASE}")

    def file_facts(self) -> list[FileFact]:
        """Return owner, mode and kind of each file of the running broker."""
        with connect_engine() as client:
            container = self._require_running(client)
            return list(inspection.file_facts(container, _broker_user(container)[0]))

    def data_directory(self) -> Path | None:
        """Return where the volume of its data lies on this machine; None where it is on no volume."""
        with connect_engine() as client:
            return inspection.data_directory(client, self._require_running(client))

    def restart_policy(self) -> str | None:
        """Return the engine's word for what it does after a crash."""
        with connect_engine() as client:
            return inspection.restart_policy(self._require_running(client))

    def _start(self, client: DockerClient, image: Image, profile: Profile | None) -> UpResult:
        self._remove_container(client)
        self.spec = with_ports(_with_websockets(self.spec))
        save_spec(self.paths, self.spec)
        reference = engine.pinned(image, self.plan.image)
        profile = mosquitto_profile(self.spec, self.paths, profile, backend=self.backend, image=reference)
        container = engine.create(client, self.plan)
        self._prepare(container, profile, _version(client, image))
        save_profile(self.paths, profile)
        container.start()
        seconds = wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: _cause(container))
        self._prove_save(container)
        return UpResult(profile=profile, already=False, seconds=seconds)

    def _prepare(self, container: Container, profile: Profile, version: tuple[int, ...]) -> None:
        """Write what the broker reads; users and ACL stay where they are there already."""
        if self.spec.tls and engine.read_path(container, f"{HOME}/config/certs/server.crt") is None:
            for name, content in first_certificate(self.spec, self.paths.authority).items():
                self._write(container, name, content)
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        listeners, anonymous = self.plan.listeners(), self.spec.anonymous
        text = configuration.mosquitto_conf(listeners, settings, version=version, anonymous=anonymous, root=f"{HOME}/")
        self._write(container, "config/mosquitto.conf", text.encode())
        self._write(container, "config/passwd", self._passwords(container, profile).encode())
        rules = acl_for_start(engine.read_path(container, f"{HOME}/config/acl"), anonymous=anonymous)
        self._write(container, "config/acl", rules)
        login = f"-u {profile.probe_username}\n-P {profile.probe_password}\n"
        self._write(container, f"{PROBE_HOME}/mosquitto_rr", login.encode())

    def _passwords(self, container: Container, profile: Profile) -> str:
        """Return the password file with the profile's own users, whatever was there before."""
        content = engine.read_path(container, f"{HOME}/config/passwd")
        users = PasswordFile.parse((content or b"").decode(), where="config/passwd")
        own = ((profile.username, profile.password), (profile.probe_username, profile.probe_password))
        for user, password in own:
            if user and password and not users.verify(user, password):
                users = users.with_user(user, password)
        return users.render()

    def _write(self, container: Container, name: str, content: bytes) -> None:
        top, _, below = name.partition("/")
        owner = _broker_user(container)
        container.reload()
        if container.status != "running":
            engine.put_file(container, f"{HOME}/{top}", below, content, owner)
            return
        beside = f"{below}.{time.monotonic_ns():x}"
        engine.put_file(container, f"{HOME}/{top}", beside, content, owner)
        engine.run_in(
            container, "sh", "-c", f"fsync {HOME}/{top}/{beside}; mv -f {HOME}/{top}/{beside} {HOME}/{top}/{below}"
        )

    def _prove_save(self, container: Container) -> None:
        """Demand a save: a data directory that cannot be written shows only at the first one."""
        if not configuration.tuning(self.spec.tuning, self.spec.overrides).persistence:
            return
        before = self.file_stamp(DATABASE)
        container.kill(signal="SIGUSR1")
        deadline = time.monotonic() + READY_SECONDS
        while self.file_stamp(DATABASE) in (before, None):
            if time.monotonic() > deadline:
                raise LifecycleError(f"the broker cannot save {HOME}/{DATABASE}: {engine.last_words(container)}")
            time.sleep(0.05)

    def _container(self, client: DockerClient) -> Container | None:
        """Return our container, or None; raise LifecycleError for one of that name that is not ours."""
        from docker.errors import NotFound

        try:
            container = client.containers.get(self.plan.name)
        except NotFound:
            return None
        owner = container.labels.get(DIRECTORY_LABEL)
        if container.labels.get(LABEL) != self.spec.name or owner != str(self.paths.directory):
            whose = f"belongs to the broker in {owner}" if owner else "was not made by mqttkit"
            raise LifecycleError(
                f"a container named {self.plan.name} is there already and {whose}: it is left alone",
                hint="Choose another name with: mqttkit broker up --name NAME",
            )
        return container

    def _require_running(self, client: DockerClient) -> Container:
        container = self._container(client)
        if container is None or container.status != "running":
            raise LifecycleError(f"broker {self.spec.name!r} does not run", hint="Start it with: mqttkit broker up")
        return container

    @contextlib.contextmanager
    def _holder(self, client: DockerClient, *, make: bool = False) -> Iterator[Container | None]:
        """Yield our container, or one made for the moment that only holds the volumes.

        None where there are no volumes, unless `make`.
        """
        container = self._container(client)
        if container is not None:
            yield container
            return
        if not make and not self._volumes(client):
            yield None
            return
        engine.ensure_image(client, self.plan.image)
        engine.create_volumes(client, self.plan)
        holder = client.containers.create(self.plan.image, labels=self.plan.labels, volumes=self._mounts())
        try:
            yield holder
        finally:
            holder.remove(force=True, v=True)

    def _mounts(self) -> dict[str, dict[str, str]]:
        return {volume: {"bind": place, "mode": "rw"} for volume, place in self.plan.volumes.items()}

    def _volumes(self, client: DockerClient) -> set[str]:
        """Return which of our volumes are there."""
        labelled = client.volumes.list(filters={"label": f"{LABEL}={self.spec.name}"})
        return {str(volume.name) for volume in labelled} & set(self.plan.volumes)

    def _remove_container(self, client: DockerClient) -> None:
        container = self._container(client)
        if container is None:
            return
        container.stop(timeout=int(STOP_SECONDS))
        container.remove(force=True, v=True)

    def _undo(self, client: DockerClient, *, keep: set[str]) -> None:
        """Remove the container, and the volumes that were not there before."""
        self._remove_container(client)
        for volume in self._volumes(client) - keep:
            client.volumes.get(volume).remove()


def _with_websockets(spec: BrokerSpec) -> BrokerSpec:
    """Choose the WebSocket port where none was asked for: 9001, or a free one where that is taken."""
    if spec.websocket_port is not None:
        return spec
    port = INNER_WEBSOCKET_PORT if spec.port else 0
    with contextlib.suppress(PortTaken):
        if port:
            require_free(spec.listen, port)
            return dataclasses.replace(spec, websocket_port=port)
    return dataclasses.replace(spec, websocket_port=free_port(spec.listen))


def _broker_user(container: Container) -> tuple[int, int]:
    """Return (uid, gid) of the image's user `mosquitto`."""
    for line in (engine.read_path(container, "/etc/passwd") or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == "mosquitto" and len(fields) > 3:
            return int(fields[2]), int(fields[3])
    raise MissingPart("the image has no user 'mosquitto'", hint="Give one of eclipse-mosquitto's contract with --image")


def _version(client: DockerClient, image: Image) -> tuple[int, ...]:
    """Return the version that the image's environment tells, or its mosquitto itself."""
    text = engine.environment(image).get("VERSION", "")
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        output = engine.one_shot(client, str(image.id), "mosquitto", "-h")
        found = re.search(r"mosquitto version (\d+\.\d+\.\d+)", output)
        if found is None:
            raise LifecycleError(f"the image {image.id} tells no version of mosquitto")
        text = found[1]
    return tuple(int(part) for part in text.split("."))


def _cause(container: Container) -> str:
    """Return why the container is gone or starts over and over, or an empty string while it runs."""
    state = engine.state_of(container)
    if state.get("Running") and not state.get("Restarting"):
        return ""
    return engine.last_words(container)
