"""Open, start, restart and find a broker; choose its backend."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.broker.backends.log_file import rotate_while_written
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.broker.ports import require_free
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, load_spec, locked
from mqttkit.broker.protocol import LACKS, Broker, Feature, UpResult
from mqttkit.errors import LifecycleError, MissingPart, MqttkitError, PermissionMissing, UsageError
from mqttkit.files import write_secret

log = logging.getLogger(__name__)

BACKENDS = {
    "docker": ("mqttkit.broker.backends.docker.backend", "DockerBroker"),
    "process": ("mqttkit.broker.backends.native", "ProcessBroker"),
    "embedded": ("mqttkit.broker.backends.embedded", "EmbeddedBroker"),
}
"""Module and class of each backend, in the order in which `auto` tries them."""
SPACE_FILE = "space-check"
START_BYTES = 128 * 1024
"""More than the configuration, the accounts and the certificates of most brokers."""


def open_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> Broker:
    """Return the broker of `spec`; the backend `auto` is the first one that this machine can use."""
    name = _candidates(spec)[0]
    backend = _backend(name)
    return backend(spec.with_backend(name), paths or BrokerPaths.of(spec.name))  # type: ignore[no-any-return]  # from a table of names


def start_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> tuple[Broker, UpResult]:
    """Start a broker; with `auto`, try the next backend if a part of one is missing.

    Raises `UsageError` if a broker of that name is already running with other settings.
    """
    place = paths or BrokerPaths.of(spec.name)
    with locked(place):
        spec = _with_stored_choices(spec, place)
        names = _candidates(spec)
        for name in names:
            broker = open_broker(spec.with_backend(name), place)
            try:
                return broker, broker.up()
            except MissingPart as error:
                if name == names[-1] or isinstance(error, PermissionMissing):
                    raise
                log.warning("the %s backend does not work here: %s", name, error)
    raise LifecycleError("no backend was tried")


def stop_broker(broker: Broker, *, volumes: bool = False, discard_unsaved: bool = False) -> bool:
    """Stop a broker whose data is safe on disk; with `volumes` remove its data, users and profile too.

    First the broker saves its database, and we read the file. If that fails, the broker keeps running, and
    LifecycleError says why; `discard_unsaved` stops it nevertheless. Returns False if it did not run.
    """
    from mqttkit.broker.live.save import save_everything

    with locked(broker.paths):
        running = broker.running()
        if running is not None and running.halted != "crash-looping" and not (volumes or discard_unsaved):
            try:
                save_everything(broker)
            except LifecycleError as error:
                raise LifecycleError(
                    f"broker {broker.spec.name!r} still runs: its messages are not safe on disk, {error.message}",
                    hint="Free some space or repair its directory. To lose the unsaved messages: --discard-unsaved",
                ) from error
        return broker.down(volumes=volumes)


def restart_broker(spec: BrokerSpec, *, discard_unsaved: bool = False) -> tuple[Broker, UpResult]:
    """Stop the broker that has the spec's name and start it with the settings of the spec.

    Settings, files and free space are checked before the broker is stopped as `stop_broker` does. If the start fails
    nevertheless, the broker starts again with its old settings. Raises `UsageError`, `PortTaken`, `LifecycleError`.
    """
    broker = existing_broker(spec.name)
    spec.check()
    old = broker.spec
    if spec.backend not in ("auto", old.backend):
        raise UsageError(f"broker {spec.name!r} is set up with the {old.backend} backend, not {spec.backend}")
    current = set(old.ports.values())
    for name, port in spec.ports.items():
        if port and port not in current:
            require_free(spec.address_of(name), port)
    _require_valid_files(broker)
    with locked(broker.paths):
        _require_space(broker)
    stop_broker(broker, discard_unsaved=discard_unsaved)
    try:
        return start_broker(spec)
    except MqttkitError:
        if spec != old:
            start_broker(old)
        raise


def _require_valid_files(broker: Broker) -> None:
    """Raise `UsageError` if the password file or the ACL would prevent a start."""
    from mqttkit.broker.accounts.acl import AclFile
    from mqttkit.broker.accounts.passwords import PasswordFile

    if Feature.USERS in LACKS[broker.backend]:
        return
    kinds: tuple[tuple[type[AclFile | PasswordFile], str], ...] = (
        (PasswordFile, PASSWORD_FILE),
        (AclFile, ACL_FILE),
    )
    for kind, name in kinds:
        content = broker.read_file(name)
        if content is not None:
            kind.parse(content.decode(errors="replace"), where=name)


def _require_space(broker: Broker) -> None:
    """Raise `MqttkitError` if the files that a start writes do not fit on the disk."""
    if broker.running() is None:
        return
    trial = broker.paths.directory / SPACE_FILE
    try:
        write_secret(trial, bytes(START_BYTES))
        broker.write_file(f"config/{SPACE_FILE}", bytes(START_BYTES))
    except MqttkitError as error:
        raise LifecycleError(
            f"broker {broker.spec.name!r} was not stopped, because it could not start again: {error.message}",
            hint="Free some space",
        ) from error
    finally:
        trial.unlink(missing_ok=True)
        broker.remove_file(f"config/{SPACE_FILE}")


@contextlib.contextmanager
def temporary_broker(backend: str = "auto", *, anonymous: bool = False) -> Iterator[Profile]:
    """Run a broker on a free loopback port until the block ends, and leave nothing behind."""
    with run_temporary(backend=backend, anonymous=anonymous) as (_, profile):
        yield profile


@contextlib.contextmanager
def run_temporary(*, port: int = 0, **spec: Any) -> Iterator[tuple[Broker, Profile]]:
    """Run a broker with these fields of `BrokerSpec` on loopback until the block ends; port 0 picks a free one."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mqttkit-broker-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        name = f"temporary-{os.urandom(4).hex()}"
        broker, result = start_broker(BrokerSpec(name=name, port=port, temporary=True, **spec), paths)
        try:
            yield broker, result.profile
        finally:
            with locked(paths):
                broker.down(volumes=True)


def existing_broker(name: str = "default") -> Broker:
    """Return the broker that `up` created under this name, and rotate its log if that is large.

    Raises `UsageError` if there is none.
    """
    paths = BrokerPaths.of(name)
    spec = load_spec(paths)
    if spec is None:
        option = "" if name == "default" else f" --name {name}"
        raise UsageError(f"broker {name!r} does not exist", hint=f"Start one with: mqttkit broker up{option}")
    rotate_while_written(paths.log)
    return open_broker(spec, paths)


def _with_stored_choices(spec: BrokerSpec, paths: BrokerPaths) -> BrokerSpec:
    """Return the spec completed from the existing broker's settings; raise `UsageError` if it contradicts them."""
    spec.check()
    stored = load_spec(paths)
    if stored is None:
        return _with_running_backend(spec, paths)
    spec = spec.with_backend(stored.backend if spec.backend == "auto" else spec.backend)
    websocket_port = stored.websocket_port if spec.websocket_port is None else spec.websocket_port
    spec = dataclasses.replace(spec, port=spec.port or stored.port, websocket_port=websocket_port)
    automatic = tuple(name for name in stored.automatic_ports if getattr(spec, name) == getattr(stored, name))
    spec = dataclasses.replace(spec, automatic_ports=automatic)
    running = open_broker(stored, paths).running()
    for change in dataclasses.fields(BrokerSpec):
        old, new = getattr(stored, change.name), getattr(spec, change.name)
        if change.name != "automatic_ports" and old != new and (running or change.name == "backend"):
            raise UsageError(
                f"broker {spec.name!r} is set up with {change.name} {old}, not {new}",
                hint=f"Remove it first: mqttkit broker down --name {spec.name} --volumes (its data is lost)"
                if change.name == "backend"
                else f"Change a running broker with: mqttkit broker restart --name {spec.name} …",
            )
    return spec


def _with_running_backend(spec: BrokerSpec, paths: BrokerPaths) -> BrokerSpec:
    """Return the spec with the backend that still runs a broker whose settings are lost, so that no second one starts.

    Raises `UsageError` if the spec names another backend.
    """
    if spec.temporary or not (spec.backend == "auto" or any(paths.directory.iterdir())):
        return spec
    for name in BACKENDS:
        try:
            running = open_broker(spec.with_backend(name), paths).running()
        except MqttkitError:
            continue  # this machine cannot use the backend, or another program's container has the name
        if running is None:
            continue
        if spec.backend not in ("auto", name):
            raise UsageError(
                f"broker {spec.name!r} runs with the {name} backend ({running.identity}), but its settings are lost",
                hint=f"Take it over with: mqttkit broker up --backend {name} --name {spec.name}",
            )
        log.warning("broker %r runs (%s), but its settings are lost: it starts again", spec.name, running.identity)
        return spec.with_backend(name)
    return spec


def _candidates(spec: BrokerSpec) -> list[str]:
    """Return the backends to try; an image or a Docker network leaves only Docker."""
    if spec.backend != "auto":
        return [spec.backend]
    return ["docker"] if spec.image or spec.network else usable_backends()


def _backend(name: str) -> Any:
    """Import the class of one backend."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}", hint=f"Choose one of: auto, {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name]
    if importlib.util.find_spec(module) is None:
        raise MissingPart(f"the {name} backend is not part of this installation")
    return getattr(importlib.import_module(module), attribute)


def usable_backends() -> list[str]:
    """Return the backends that this machine can use, the best first; raise `MissingPart` if there is none."""
    found, reasons = [], []
    for name in BACKENDS:
        try:
            reason = str(_backend(name).unusable())
        except MissingPart as error:
            reason = error.message
        if reason:
            reasons.append(f"{name}: {reason}")
        else:
            found.append(name)
    if not found:
        raise MissingPart(
            f"this machine cannot run a broker ({'; '.join(reasons)})",
            hint="Install one with: apt-get install mosquitto, or: pip install 'mqttkit[embedded]'",
        )
    return found
