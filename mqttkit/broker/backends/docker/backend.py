"""Mosquitto in a container of the Docker engine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqttkit.broker.accounts.initial_files import acl_for_start, passwords_for_start
from mqttkit.broker.accounts.operator_profile import mosquitto_profile
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
from mqttkit.broker.backends.local_process import READY_SECONDS, STOP_SECONDS
from mqttkit.broker.backends.log_file import append, log_lines
from mqttkit.broker.backends.port_choice import start_on_free_ports
from mqttkit.broker.certificates.initial_certificate import has_revocations, missing_certificates
from mqttkit.broker.file_facts import FileFact
from mqttkit.broker.file_names import ACL_FILE, CONFIGURATION_FILE, DATABASE_FILE, PASSWORD_FILE
from mqttkit.broker.live.losses import report_losses
from mqttkit.broker.live.save import save_database
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.mosquitto.bridge_connections import bridge_files, bridge_section, load_bridges
from mqttkit.broker.probe import operator_login
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, read_profile, save_profile, save_spec
from mqttkit.broker.protocol import Resources, Running, UpResult
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError, MqttkitError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

log = logging.getLogger(__name__)

USABLE_SECONDS = 3.0
FOLLOW_SECONDS = 0.5


class DockerBroker:
    """A container with two named volumes: `…-config` for configuration, users, ACL and certificates, and `…-data`."""

    backend = "docker"

    def __init__(self, spec: BrokerSpec, paths: BrokerPaths) -> None:
        self.spec = spec
        self.paths = paths

    @classmethod
    def unusable(cls, image: str = DEFAULT_IMAGE) -> str:
        """Return why Docker cannot run the image on this machine, or an empty string."""
        try:
            with connect_engine(seconds=USABLE_SECONDS) as client:
                if engine.can_have(client, image):
                    return ""
                return f"the image {image} is not on this machine and no registry answers"
        except MqttkitError as error:
            return error.message

    @property
    def plan(self) -> ContainerPlan:
        """Everything that describes the container."""
        image = self.spec.image or DEFAULT_IMAGE
        return ContainerPlan(spec=self.spec, image=image, directory=str(self.paths.directory))

    def up(self) -> UpResult:
        """Start the container and return when the broker has answered; undo a start that fails."""
        self.spec.check()
        profile = read_profile(self.paths)
        self.resume()
        with connect_engine() as client:
            container = self._container(client)
            lost = not self.paths.spec.exists()
            if container is not None and container.status == "running" and profile is not None and not lost:
                wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: engine.why_ended(container))
                return UpResult(profile=profile, already=True, seconds=0.0)
            if container is not None and lost and self.spec.image is None:
                self.spec = dataclasses.replace(self.spec, image=str(container.attrs["Config"]["Image"]))
            image = engine.ensure_image(client, self.plan.image)
            self._remove_container(client, keep_log=True)
            start = functools.partial(self._start_or_undo, client, image, profile)
            return start_on_free_ports(_with_websockets(self.spec), start)

    def down(self, *, volumes: bool = False) -> bool:
        """Stop and remove the container; with `volumes` remove its volumes and our files too."""
        with connect_engine() as client:
            container = self._container(client)
            ran = container is not None and container.status == "running"
            self._remove_container(client, keep_log=not volumes)
            if volumes:
                self._undo(client, keep=set())
                empty(self.paths.directory)
        return ran

    def running(self) -> Running | None:
        """Return the running container, or None."""
        with connect_engine() as client:
            container = self._container(client)
            state = engine.state_of(container) if container is not None else {}
            if container is None or not (state.get("Running") or state.get("Restarting")):
                return None
            started = re.sub(r"(\.\d{1,6})\d*Z$", r"\1+00:00", str(state["StartedAt"]))
            stamp = datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp()
            return Running(
                pid=int(state["Pid"]),
                started=stamp,
                identity=f"container {container.short_id}",
                health=(state.get("Health") or {}).get("Status"),
                halted="paused" if state.get("Paused") else "crash-looping" if state.get("Restarting") else "",
            )

    def version(self) -> tuple[int, ...]:
        """Return the version of the image's mosquitto."""
        with connect_engine() as client:
            return inspection.image_version(client, engine.ensure_image(client, self.plan.image))

    def configuration(self) -> str:
        """Return mosquitto.conf."""
        revocations, version = has_revocations(self.spec, self.paths.authority, self.read_file), self.version()
        with connect_engine() as client, self._holder(client, make=True) as container:
            assert container is not None
            plugins = inspection.plugin_directory(container, version)
        return self._configuration(version, revocations=revocations, plugins=plugins)

    def _configuration(self, version: tuple[int, ...], **given: Any) -> str:
        return self.plan.configuration(version, **given) + bridge_section(load_bridges(self.paths), f"{HOME}/")

    def signal(self, name: str) -> None:
        """Send HUP or USR1 to the running broker."""
        with connect_engine() as client:
            engine.signal_broker(self._require_running(client), name)

    def resume(self) -> None:
        """Unpause the container."""
        with connect_engine() as client:
            container = self._container(client)
            if container is not None and container.status == "paused":
                container.unpause()

    def read_file(self, name: str) -> bytes | None:
        """Return a file's content, or None; works also while the broker is down."""
        with connect_engine() as client, self._holder(client) as container:
            return None if container is None else engine.read_path(container, f"{HOME}/{name}")

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file: write it beside the old one, rename it; the image's broker user owns it, mode 0600."""
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
        """Yield the last `tail` lines of the log; with `follow`, each new line, also of the containers after this one.

        `down` and `restart` remove the container; its lines are kept in `paths.log`.
        """
        with connect_engine() as client:
            container = self._container(client)
            current = [] if container is None else list(engine.log_entries(container, tail=tail))
        lines = [*log_lines(self.paths.log, tail=tail), *(line for _, line in current)]
        yield from lines if tail is None else lines[max(0, len(lines) - tail) :]
        last = current[-1][0] if current else ""
        while follow and self.paths.spec.exists():
            with connect_engine() as client:
                container = self._container(client)
                entries = engine.log_entries(container, after=last, follow=True) if container else ()
                for stamp, line in entries:
                    yield line
                    last = stamp
            time.sleep(FOLLOW_SECONDS)

    def resources(self) -> Resources | None:
        """Return what the container uses, or None if it does not run."""
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
        """Return when the database was saved, seconds since the epoch, or None."""
        with connect_engine() as client:
            return inspection.last_save(self._require_running(client), f"{HOME}/{DATABASE_FILE}")

    def file_facts(self) -> list[FileFact]:
        """Return owner, mode and kind of each file of the running broker."""
        with connect_engine() as client:
            container = self._require_running(client)
            return list(inspection.file_facts(container, inspection.broker_user(container)[0]))

    def data_directory(self) -> Path | None:
        """Return the directory of its data volume on this machine; None if its data is not on a volume."""
        with connect_engine() as client:
            return inspection.data_directory(client, self._require_running(client))

    def restart_policy(self) -> str | None:
        """Return the engine's restart policy, or None."""
        with connect_engine() as client:
            return inspection.restart_policy(self._require_running(client))

    def stopped_by_hand(self) -> bool | None:
        """Return whether the engine has marked the container as stopped by hand; None if this user cannot see that."""
        with connect_engine() as client:
            return inspection.stopped_by_hand(client, self._require_running(client))

    def _start_or_undo(self, client: DockerClient, image: Image, profile: Profile | None, spec: BrokerSpec) -> UpResult:
        """Start the container with these ports; a start that fails leaves no container, no new volume or file."""
        asked, files, volumes = self.spec, DirectorySnapshot.of(self.paths), self._volumes(client)
        self.spec = spec
        try:
            with engine.translated_errors():
                return self._start(client, image, profile)
        except BaseException:
            self._undo(client, keep=volumes)
            files.restore(self.paths.directory)
            self.spec = asked
            raise

    def _start(self, client: DockerClient, image: Image, profile: Profile | None) -> UpResult:
        save_spec(self.paths, self.spec)
        existed = profile is not None
        reference = engine.pinned(image, self.plan.image)
        profile = mosquitto_profile(self.spec, self.paths, profile, backend=self.backend, image=reference)
        container = engine.create(client, self.plan)
        if existed:
            self._report_losses(container)
        self._prepare(container, profile, inspection.image_version(client, image))
        save_profile(self.paths, profile)
        container.start()
        seconds = wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: engine.why_ended(container))
        if configuration.tuning(self.spec.tuning, self.spec.overrides).persistence:
            save_database(self, seconds=READY_SECONDS)
        return UpResult(profile=profile, already=False, seconds=seconds)

    def _report_losses(self, container: Container) -> None:
        report_losses(
            lambda name: engine.read_path(container, f"{HOME}/{name}"),
            lambda name, content: self._write(container, name, content),
            settings=configuration.tuning(self.spec.tuning, self.spec.overrides),
        )

    def _prepare(self, container: Container, profile: Profile, version: tuple[int, ...]) -> None:
        """Write the files that the broker reads; existing users and rules stay."""

        def read(name: str) -> bytes | None:
            return engine.read_path(container, f"{HOME}/{name}")

        certificates = missing_certificates(self.spec, self.paths.authority, read)
        for name, content in {**certificates, **bridge_files(self.paths)}.items():
            self._write(container, name, content)
        anonymous = self.spec.anonymous
        revocations = has_revocations(self.spec, self.paths.authority, read)
        plugins = inspection.plugin_directory(container, version)
        configuration = self._configuration(version, revocations=revocations, plugins=plugins)
        self._write(container, CONFIGURATION_FILE, configuration.encode())
        passwords = read(PASSWORD_FILE)
        self._write(container, PASSWORD_FILE, passwords_for_start(passwords, profile))
        rules = read(ACL_FILE)
        self._write(container, ACL_FILE, acl_for_start(rules, anonymous=anonymous))
        login = f"-u {profile.probe_username}\n-P {profile.probe_password}\n"
        self._write(container, f"{PROBE_HOME}/mosquitto_rr", login.encode())

    def _write(self, container: Container, name: str, content: bytes) -> None:
        top, _, below = name.partition("/")
        owner = inspection.broker_user(container)
        container.reload()
        if container.status != "running":
            engine.put_file(container, f"{HOME}/{top}", below, content, owner)
            return
        beside, place = f"{below}.{time.monotonic_ns():x}", f"{HOME}/{top}"
        try:
            engine.put_file(container, place, beside, content, owner)
            engine.run_in(container, "sh", "-c", f"fsync {place}/{beside}; mv -f {place}/{beside} {place}/{below}")
        except BaseException:
            engine.execute(container, "rm", "-f", f"{place}/{beside}")
            raise

    def _container(self, client: DockerClient) -> Container | None:
        """Return our container, or None; raise LifecycleError if another program's container has its name."""
        from docker.errors import NotFound

        try:
            container = client.containers.get(self.plan.name)
        except NotFound:
            return None
        owner = container.labels.get(DIRECTORY_LABEL)
        if container.labels.get(LABEL) != self.spec.name or owner != str(self.paths.directory):
            whose = f"belongs to the broker in {owner}" if owner else "was not made by mqttkit"
            raise LifecycleError(
                f"a container named {self.plan.name} already exists and {whose}; mqttkit does not touch it",
                hint="Choose another name with: mqttkit broker up --name NAME",
            )
        return container

    def _require_running(self, client: DockerClient) -> Container:
        container = self._container(client)
        if container is None or container.status != "running":
            raise LifecycleError(f"broker {self.spec.name!r} is not running", hint="Start it with: mqttkit broker up")
        return container

    @contextlib.contextmanager
    def _holder(self, client: DockerClient, *, make: bool = False) -> Iterator[Container | None]:
        """Yield our container, or a short-lived one that mounts the volumes.

        Yields None if the volumes are missing, unless `make` creates them.
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
        """Return which of our volumes exist."""
        labelled = client.volumes.list(filters={"label": f"{LABEL}={self.spec.name}"})
        return {str(volume.name) for volume in labelled} & set(self.plan.volumes)

    def _remove_container(self, client: DockerClient, *, keep_log: bool = False) -> None:
        container = self._container(client)
        if container is None:
            return
        container.stop(timeout=int(STOP_SECONDS))
        if keep_log:
            self._keep_log(container)
        container.remove(force=True, v=True)

    def _keep_log(self, container: Container) -> None:
        """Append the container's log to the broker's log on this machine."""
        try:
            with engine.reading(container.logs(stream=True)) as chunks:
                append(self.paths.log, chunks)
        except OSError as error:
            log.warning("cannot keep the container's log in %s: %s", self.paths.log, error.strerror)

    def _undo(self, client: DockerClient, *, keep: set[str]) -> None:
        """Remove the container, and our volumes except those to keep."""
        self._remove_container(client)
        for volume in self._volumes(client) - keep:
            client.volumes.get(volume).remove()


def _with_websockets(spec: BrokerSpec) -> BrokerSpec:
    """Return the spec with a WebSocket listener: on 9001 or another free port if the user named none."""
    if spec.websocket_port is not None or not spec.plain:
        return spec
    wanted = INNER_WEBSOCKET_PORT if spec.port else None
    return dataclasses.replace(spec, websocket_port=wanted, automatic_ports=(*spec.automatic_ports, "websocket_port"))
