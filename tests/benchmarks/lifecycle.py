"""Times of `broker up` for each backend, of a new user's first login, and of a backup."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqttkit.broker import Broker, BrokerPaths, BrokerSpec, Profile, backup, open_broker, start_broker
from mqttkit.broker.accounts.passwords import generate_password
from mqttkit.broker.live.accounts import change_accounts
from mqttkit.broker.probe import Login, ask
from mqttkit.broker.profile import locked
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError, MqttkitError
from mqttkit.settings import MqttSettings
from tests.benchmarks.figures import Figure, at_most

ROUNDS = 3
RETAINED = 100_000
PAYLOAD = b"x" * 100
OFFLINE_IMAGE = "mqttkit/mosquitto-offline:2.0"
"""Used if the default image is not available."""
WAIT_SECONDS = 120.0


def measure_lifecycle() -> Iterator[Figure]:
    """Measure with temporary brokers; times are medians. A backend that cannot start here has a note instead."""
    for backend, image in (("process", None), ("docker", _image()), ("embedded", None)):
        name = f"broker up, {backend} backend"
        try:
            times = [_up_seconds(backend, image) for _ in range(ROUNDS)]
        except MqttkitError as error:
            yield Figure(name, 0.0, "ms", detail=f"not measured: {error.message}")
        else:
            taken = statistics.median(times) * 1_000
            yield at_most(name, taken, "ms", 1_000) if backend == "process" else Figure(name, taken, "ms")
    with _running("process", None) as (broker, profile):
        login = statistics.median(_login_seconds(broker, profile) for _ in range(ROUNDS)) * 1_000
        yield at_most("user add to first login", login, "ms", 1_000)
        _retain(profile)
        with tempfile.TemporaryDirectory() as directory:
            yield from _measure_backup(broker, Path(directory) / "archive")


def _measure_backup(broker: Broker, archive: Path) -> Iterator[Figure]:
    begin = time.monotonic()
    backup.create_backup(broker, archive)
    created = time.monotonic()
    backup.verify_backup(archive)
    verified = time.monotonic()
    yield Figure(f"backup of {RETAINED:,} retained messages", created - begin, "s")
    yield Figure("verification of that backup", verified - created, "s")


@contextmanager
def _running(backend: str, image: str | None) -> Iterator[tuple[Broker, Profile]]:
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        name = f"bench-{os.urandom(4).hex()}"
        spec = BrokerSpec(name=name, backend=backend, port=0, image=image, temporary=True)
        broker, result = start_broker(spec, paths)
        try:
            yield broker, result.profile
        finally:
            with locked(paths):
                broker.down(volumes=True)


def _up_seconds(backend: str, image: str | None) -> float:
    open_broker(BrokerSpec(backend=backend, image=image)).version()  # imports and the image are not part of the time
    begin = time.monotonic()
    with _running(backend, image):
        return time.monotonic() - begin


def _login_seconds(broker: Broker, profile: Profile) -> float:
    """Return the seconds from `user add` to that user's CONNACK."""
    user, password = f"user-{os.urandom(4).hex()}", generate_password()
    begin = time.monotonic()
    change_accounts(broker, lambda files: files.add(user, password, role="device"))
    answer = ask(Login(host=profile.host, port=profile.port, username=user, password=password))
    if not answer.accepted:
        raise LifecycleError(f"the broker refused the new user: {answer.reason}")
    return time.monotonic() - begin


def _retain(profile: Profile) -> None:
    with MqttClient(MqttSettings(broker=profile.to_broker_settings())) as client:
        client.connect(timeout=WAIT_SECONDS)
        for number in range(RETAINED):
            client.publish(f"kept/{number // 100}/{number}", PAYLOAD, qos=1, retain=True, wait=WAIT_SECONDS)
        if not client.flush(WAIT_SECONDS):
            raise LifecycleError(f"the broker did not acknowledge {RETAINED} retained messages")


def _image() -> str | None:
    """Return the offline image if the default one is not available."""
    from mqttkit.broker.backends.docker.backend import DockerBroker

    return OFFLINE_IMAGE if DockerBroker.unusable() and not DockerBroker.unusable(OFFLINE_IMAGE) else None
