"""Test a bridge: wait until it is connected, and send a canary each way."""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mqttkit.broker.mosquitto.bridge_connections import BridgeConnection, BridgeTopic, load_bridges
from mqttkit.broker.profile import read_profile
from mqttkit.broker.protocol import Broker
from mqttkit.broker.statistics import StatisticsWatcher
from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, LifecycleError, SubscriptionDenied
from mqttkit.messages import Message, Outcome, Subscription
from mqttkit.settings import BrokerSettings, MqttSettings, TlsSettings

CONNECT_SECONDS = 20.0
CANARY_SECONDS = 15.0
ARRIVAL_SECONDS = 15.0
"""How long a canary may be under way."""
POLL_SECONDS = 0.1
STARTS = re.compile(r"mosquitto version \S+ starting")
REFUSED = re.compile(r"Connection Refused: (not authorised|bad user)", re.I)
"""What the broker logs if trying again does not help."""


@dataclass(frozen=True, kw_only=True)
class BridgeTrial:
    """The result of sending a canary over a bridge."""

    direction: str
    """`out` or `in`."""
    topic: str
    """Topic on which it was published; the pattern if it was not sent."""
    seconds: float | None = None
    """Time until it arrived; None if it was not sent."""
    reason: str = ""
    """Why it was not sent."""


def try_bridge(broker: Broker, bridge: BridgeConnection) -> list[BridgeTrial]:
    """Wait until the bridge is connected, and send a canary in each direction.

    Raises LifecycleError if it does not connect, if a canary does not arrive, or if the broker crashes meanwhile.
    """
    before = broker.running()
    _wait_connected(broker, bridge)
    trials = []
    for direction in ("out", "in"):
        topics = [topic for topic in bridge.topics if topic.direction in (direction, "both")]
        if topics:
            wide = next((topic for topic in topics if topic.ends_with_wildcard), topics[0])
            trials.append(_send_canary(broker, bridge, wide, direction))
    if any(trial.seconds is None for trial in trials):
        _wait_connected(broker, bridge)  # the other broker may have stopped
    after = broker.running()
    if before is None or after is None or after.pid != before.pid:
        raise LifecycleError(
            f"the broker ended during the test of bridge {bridge.name!r}: it crashed, or another command restarted it",
            hint="See: mqttkit broker logs",
        )
    return trials


def _wait_connected(broker: Broker, bridge: BridgeConnection) -> None:
    profile = read_profile(broker.paths)
    if profile is None or broker.running() is None:
        raise LifecycleError(f"broker {broker.spec.name!r} is not running", hint="Start it with: mqttkit broker up")
    deadline = time.monotonic() + CONNECT_SECONDS
    with StatisticsWatcher(profile) as watcher:
        while not watcher.bridge_connected(bridge.client_id):
            problem = _last_problem(broker)
            if time.monotonic() > deadline or REFUSED.search(problem):
                raise LifecycleError(
                    f"bridge {bridge.name!r} does not connect to {bridge.url}: {problem or 'nothing in the log'}",
                    hint="Check address, user, password and --cafile, or keep it untested with --no-test",
                )
            time.sleep(POLL_SECONDS)


def _last_problem(broker: Broker) -> str:
    """Return the last error or refusal that the broker has logged since it started; empty if there is none."""
    lines = list(broker.log_lines(tail=200))
    start = max((number for number, line in enumerate(lines) if STARTS.search(line)), default=0)
    return next((line for line in reversed(lines[start:]) if "Error" in line or "Refused" in line), "")


def _send_canary(broker: Broker, bridge: BridgeConnection, topic: BridgeTopic, direction: str) -> BridgeTrial:
    """Publish on one broker and wait for the message on the other one."""
    if not topic.ends_with_wildcard:
        reason = "the topic has no wildcard at its end, and a canary would disturb its readers"
        return BridgeTrial(direction=direction, topic=topic.pattern, reason=reason)
    mark = f"mqttkit-canary-{secrets.token_hex(4)}"
    name = "/".join(mark if level in ("+", "#") else level for level in topic.pattern.split("/"))
    here, there = topic.local_prefix + name, topic.remote_prefix + name
    source, target = (here, there) if direction == "out" else (there, here)
    arrived = threading.Event()

    def take(message: Message) -> None:
        if message.topic == target:
            arrived.set()

    try:
        with contextlib.ExitStack() as stack:
            settings = (_own_settings(broker), stack.enter_context(_remote_settings(bridge)))
            sending, receiving = settings if direction == "out" else settings[::-1]
            receiver = stack.enter_context(MqttClient(receiving, on_message=take, retry=False))
            receiver.connect(timeout=CANARY_SECONDS)
            receiver.subscribe(Subscription(target, 1))
            sender = stack.enter_context(MqttClient(sending, retry=False))
            sender.connect(timeout=CANARY_SECONDS)
            begin = time.monotonic()
            if sender.publish(source, mark.encode(), qos=1).wait(CANARY_SECONDS) is Outcome.DENIED:
                return BridgeTrial(direction=direction, topic=source, reason="the user may not publish on it")
            if not arrived.wait(ARRIVAL_SECONDS):
                raise LifecycleError(
                    f"bridge {bridge.name!r} is connected, but a message on {source} did not arrive on {target}",
                    hint="May the user read and write these topics on the other broker?",
                )
    except (SubscriptionDenied, BrokerUnreachable, ConnectionRefused) as error:
        return BridgeTrial(direction=direction, topic=source, reason=error.message)
    return BridgeTrial(direction=direction, topic=source, seconds=time.monotonic() - begin)


def _own_settings(broker: Broker) -> MqttSettings:
    """Return the settings of a client of the broker, as its operator."""
    profile = read_profile(broker.paths)
    if profile is None:
        raise LifecycleError(f"broker {broker.spec.name!r} has no profile", hint="Write it with: mqttkit broker up")
    return profile.settings


@contextlib.contextmanager
def _remote_settings(bridge: BridgeConnection) -> Iterator[MqttSettings]:
    """Yield the settings of a client of the other broker, as the bridge's user."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-bridge-") as directory:
        places = {}
        for option, (name, content) in bridge.files.items():
            places[option] = str(Path(directory) / Path(name).name)
            Path(places[option]).write_text(content)
        tls = TlsSettings(
            ca_file=places.get("bridge_cafile"),
            cert_file=places.get("bridge_certfile"),
            key_file=places.get("bridge_keyfile"),
        )
        yield MqttSettings(
            broker=BrokerSettings(
                host=bridge.host,
                port=bridge.port,
                username=bridge.username,
                password=bridge.password,
                tls=tls if places else None,
            )
        )


def bridge_states(broker: Broker, watcher: StatisticsWatcher) -> list[dict[str, object]]:
    """Return name, address and connection of each bridge, as the broker reports them."""
    return [
        {"name": bridge.name, "to": bridge.url, "connected": watcher.bridge_connected(bridge.client_id)}
        for bridge in load_bridges(broker.paths)
    ]
