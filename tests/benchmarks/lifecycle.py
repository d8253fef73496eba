"""What a broker's life costs: `up` of each backend, a new user's first login, backup and its proof."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqttkit.bench.plan import Plan
from mqttkit.bench.result import Result
from mqttkit.broker import Broker, BrokerPaths, BrokerSpec, Profile, backup, open_broker, start_broker
from mqttkit.broker.accounts.live_changes import change_accounts
from mqttkit.broker.accounts.roles import generate_password
from mqttkit.broker.probe import Login, ask
from mqttkit.broker.profile import locked
from mqttkit.client import MqttClient
from mqttkit.errors import LifecycleError, MqttkitError
from mqttkit.settings import MqttSettings

ROUNDS = 3
RETAINED = 100_000
PAYLOAD = b"x" * 100
OFFLINE_IMAGE = "mqttkit/mosquitto-offline:2.0"
"""Where the default image cannot be had."""
WAIT_SECONDS = 120.0


def run_lifecycle() -> Result:
    """Measure with brokers of our own; times are medians. What cannot be measured here is a note."""
    result = Result(Plan(scenario="lifecycle", topic="mqttkit-bench"))
    for backend, image in (("process", None), ("docker", _image()), ("embedded", None)):
        try:
            times = [_up_seconds(backend, image) for _ in range(ROUNDS)]
        except MqttkitError as error:
            result.notes.append(f"up of the {backend} backend was not measured: {error.message}")
        else:
            result.metrics[f"up_{backend}"] = statistics.median(times) * 1_000
    with _running("process", None) as (broker, profile):
        result.metrics["user_login"] = statistics.median(_login_seconds(broker, profile) for _ in range(ROUNDS)) * 1_000
        _retain(profile)
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory) / "archive"
            begin = time.monotonic()
            backup.create_backup(broker, archive)
            created = time.monotonic()
            backup.verify_backup(archive)
            result.metrics["backup_create"] = created - begin
            result.metrics["backup_verify"] = time.monotonic() - created
    return result


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
    open_broker(BrokerSpec(backend=backend, image=image)).version()  # imports and image are no part of `up`
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
        raise LifecycleError(f"the new user was refused: {answer.reason}")
    return time.monotonic() - begin


def _retain(profile: Profile) -> None:
    with MqttClient(MqttSettings(broker=profile.to_broker_settings())) as client:
        client.connect(timeout=WAIT_SECONDS)
        for number in range(RETAINED):
            client.publish(f"kept/{number // 100}/{number}", PAYLOAD, qos=1, retain=True, wait=WAIT_SECONDS)
        if not client.flush(WAIT_SECONDS):
            raise LifecycleError(f"{RETAINED} retained messages were not acknowledged")


def _image() -> str | None:
    """Return the offline image where the default one cannot be had."""
    from mqttkit.broker.backends.docker.backend import DockerBroker

    return OFFLINE_IMAGE if DockerBroker.unusable() and not DockerBroker.unusable(OFFLINE_IMAGE) else None
