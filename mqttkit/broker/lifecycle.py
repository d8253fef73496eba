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

from mqttkit.broker.ports import require_free
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, load_spec, locked
from mqttkit.broker.protocol import LACKS, Broker, Feature, UpResult
from mqttkit.errors import LifecycleError, MissingPart, MqttkitError, PermissionMissing, UsageError

log = logging.getLogger(__name__)

BACKENDS = {
    "docker": ("mqttkit.broker.backends.docker.backend", "DockerBroker"),
    "process": ("mqttkit.broker.backends.native", "ProcessBroker"),
    "embedded": ("mqttkit.broker.backends.embedded", "EmbeddedBroker"),
}
"""Each backend's module and class, in the order in which `auto` tries them."""


def open_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> Broker:
    """Return the broker of `spec`; its backend `auto` is the first that can be used on this machine."""
    name = usable_backends()[0] if spec.backend == "auto" else spec.backend
    backend = _backend(name)
    return backend(spec.with_backend(name), paths or BrokerPaths.of(spec.name))  # type: ignore[no-any-return]  # named by a table


def start_broker(spec: BrokerSpec, paths: BrokerPaths | None = None) -> tuple[Broker, UpResult]:
    """Bring a broker up; with `auto`, a backend that misses a part gives way to the next one.

    Raises `UsageError` where a broker of that name runs already and is not what `spec` asks for.
    """
    place = paths or BrokerPaths.of(spec.name)
    with locked(place):
        spec = _settled(spec, place)
        names = usable_backends() if spec.backend == "auto" else [spec.backend]
        for name in names:
            broker = open_broker(spec.with_backend(name), place)
            try:
                return broker, broker.up()
            except MissingPart as error:
                if name == names[-1] or isinstance(error, PermissionMissing):
                    raise
                log.warning("the %s backend cannot be used: %s", name, error)
    raise LifecycleError("no backend was tried")


def restart_broker(spec: BrokerSpec) -> tuple[Broker, UpResult]:
    """End the broker of the spec's name and start it as the spec says.

    What can be known to fail is refused before the broker is ended; where the start fails all the same, the
    broker comes back as it was. Raises `UsageError`, `PortTaken`, `LifecycleError`.
    """
    broker = existing_broker(spec.name)
    spec.check()
    old = broker.spec
    if spec.backend not in ("auto", old.backend):
        raise UsageError(f"broker {spec.name!r} is set up with the {old.backend} backend, not {spec.backend}")
    held = {old.port, old.websocket_port, old.tls_port}
    for port in {spec.port, spec.websocket_port, spec.tls_port} - held - {None, 0}:
        require_free(spec.listen, int(port or 0))
    _require_valid_files(broker)
    with locked(broker.paths):
        broker.down()
    try:
        return start_broker(spec)
    except MqttkitError:
        if spec != old:
            start_broker(old)
        raise


def _require_valid_files(broker: Broker) -> None:
    """Raise `UsageError` where users or ACL, as they are now, would keep the broker from starting."""
    from mqttkit.broker.accounts.acl import AclFile
    from mqttkit.broker.accounts.passwords import PasswordFile

    if Feature.USERS in LACKS[broker.backend]:
        return
    kinds: tuple[tuple[type[AclFile | PasswordFile], str], ...] = (
        (PasswordFile, "config/passwd"),
        (AclFile, "config/acl"),
    )
    for kind, name in kinds:
        content = broker.read_file(name)
        if content is not None:
            kind.parse(content.decode(errors="replace"), where=name)


@contextlib.contextmanager
def temporary_broker(backend: str = "auto", *, anonymous: bool = False) -> Iterator[Profile]:
    """Run a broker on a free loopback port for as long as the block lasts, and leave nothing behind."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mqttkit-broker-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        spec = BrokerSpec(
            name=f"temporary-{os.urandom(4).hex()}",
            backend=backend,
            port=0,
            anonymous=anonymous,
            temporary=True,
        )
        broker, result = start_broker(spec, paths)
        try:
            yield result.profile
        finally:
            with locked(paths):
                broker.down(volumes=True)


def existing_broker(name: str = "default") -> Broker:
    """Return the broker that `up` set up under this name; raise `UsageError` where there is none."""
    paths = BrokerPaths.of(name)
    spec = load_spec(paths)
    if spec is None:
        option = "" if name == "default" else f" --name {name}"
        raise UsageError(f"there is no broker named {name!r}", hint=f"Start one with: mqttkit broker up{option}")
    return open_broker(spec, paths)


def _settled(spec: BrokerSpec, paths: BrokerPaths) -> BrokerSpec:
    """Return the spec with what is settled by the broker that is there; raise `UsageError` where they differ."""
    spec.check()
    stored = load_spec(paths)
    if stored is None:
        return spec
    spec = spec.with_backend(stored.backend if spec.backend == "auto" else spec.backend)
    websocket_port = stored.websocket_port if spec.websocket_port is None else spec.websocket_port
    spec = dataclasses.replace(spec, port=spec.port or stored.port, websocket_port=websocket_port)
    running = open_broker(stored, paths).running()
    for change in dataclasses.fields(BrokerSpec):
        old, new = getattr(stored, change.name), getattr(spec, change.name)
        if old != new and (running or change.name == "backend"):
            raise UsageError(
                f"broker {spec.name!r} is set up with {change.name} {old}, not {new}",
                hint=f"Take it down first: mqttkit broker down --name {spec.name}"
                + ("" if running and change.name != "backend" else " --volumes (its data is lost)"),
            )
    return spec


def _backend(name: str) -> Any:
    """Import a backend's class; only the chosen one is imported."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}", hint=f"Choose one of: auto, {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name]
    if importlib.util.find_spec(module) is None:
        raise MissingPart(f"the {name} backend is not part of this installation")
    return getattr(importlib.import_module(module), attribute)


def usable_backends() -> list[str]:
    """Return the backends that can be used here, the best first; raise `MissingPart` where there is none."""
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
            f"no broker can be started here ({'; '.join(reasons)})",
            hint="Install one with: apt-get install mosquitto, or: pip install 'mqttkit[embedded]'",
        )
    return found
