"""A walkthrough in numbered steps: regional and local controllers, one discovery cycle, over a real broker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from mqttkit.client import MqttClient
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.roles import LocalController, RegionalController
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.store import Store
from mqttkit.errors import BrokerUnreachable
from mqttkit.settings import ControllerSettings, MqttSettings

STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Walkthrough:
    """The parameters of a walkthrough."""

    locals: int = 1
    """Local controllers."""
    subnet: str = "192.168.{number}.0/24"
    """Subnet of each local controller; {number} counts from 1."""
    seed: int = 0
    """The same seed finds the same devices."""
    timeout: float = 10.0
    """Seconds to wait for a connection, and for each report."""


def simulate(settings: ControllerSettings, mqtt: MqttSettings, plan: Walkthrough, say: Callable[[str], None]) -> bool:
    """Run the walkthrough; `say` gets each line. Return False if a report is missing or differs.

    The run makes its own keys and keeps them in memory. Raises BrokerUnreachable, ConnectionRefused.
    """
    settings = replace(settings, transports=("mqtt",), keep_session=False)
    with ExitStack() as stack:
        _step(say, 1, "checking the MQTT broker")
        probe = stack.enter_context(MqttClient(mqtt, retry=False))
        probe.connect(timeout=plan.timeout)
        _say_done(say, f"broker {probe.address[0]}:{probe.address[1]} answers MQTT {_version(probe)}")
        _step(say, 2, "preparing the infrastructure")
        codec = SignedCodec(KeyRing().add(generate("simulation")).activate("simulation"))
        _say_done(say, "signing key generated, stores open")
        _step(say, 3, "starting the regional controller")
        regional_id = f"regional_cntl_{settings.region}_1"
        regional = RegionalController(replace(settings, id=regional_id), mqtt, codec=codec, store=Store())
        _connect(regional, stack, probe, plan)
        regional.subscribe_to_discovery_reports()
        _say_done(say, f"{regional_id} connected, subscribed to {regional.topics.discovery_filter(settings.region)}")
        _step(say, 4, "starting the local controllers")
        locals_ = [_local(settings, mqtt, codec, number) for number in range(1, plan.locals + 1)]
        for local in locals_:
            _connect(local, stack, probe, plan)
            topic = local.topics.discovery(settings.region, local.controller_id)
            _say_done(say, f"{local.controller_id} connected, will publish to {topic}")
        return _discover(say, regional, locals_, plan)


def _local(settings: ControllerSettings, mqtt: MqttSettings, codec: SignedCodec, number: int) -> LocalController:
    name = f"local_cntl_{settings.region.lower()}_{number:03d}"
    return LocalController(replace(settings, id=name), mqtt, codec=codec, store=Store())


def _connect(
    controller: RegionalController | LocalController, stack: ExitStack, probe: MqttClient, plan: Walkthrough
) -> None:
    """Connect; at the end, remove the retained heartbeat from the broker."""
    topic = Topics(controller.settings.base).status(controller.controller_id)
    stack.callback(lambda: probe.publish(topic, b"", qos=1, retain=True).wait(plan.timeout))
    stack.callback(controller.disconnect_mqtt)
    if not controller.connect_mqtt(plan.timeout):
        host, port = probe.address
        raise BrokerUnreachable(f"{host}:{port}", "mqtt", f"{controller.controller_id} could not connect")


def _discover(
    say: Callable[[str], None], regional: RegionalController, locals_: list[LocalController], plan: Walkthrough
) -> bool:
    """Run one discovery cycle on each local controller and compare the received reports."""
    _step(say, 5, "running a discovery cycle")
    sent: dict[str, dict[str, Any]] = {}
    for number, local in enumerate(locals_, 1):
        subnet = plan.subnet.replace("{number}", str(number))
        report = local.run_discovery_cycle(subnet=subnet, seed=plan.seed, timeout=plan.timeout)
        sent[local.controller_id] = report
        scans = ", ".join(f"{name.upper()} {count}" for name, count in report["scans"].items())
        _say_done(say, f"{local.controller_id} scanned {subnet}: {scans}; report published")
    _step(say, 6, "waiting for the reports")
    good = True
    for name, report in sent.items():
        found = regional.wait_for_report(name, timeout=plan.timeout)
        if found is not None and found.payload == report:
            _say_done(say, f"report of {name} received and matched: {len(report['devices'])} devices")
        else:
            good = False
            say(
                f"  failed: the report of {name} "
                + ("differs" if found else f"did not arrive within {plan.timeout:.0f} s")
            )
    say(f"{'complete' if good else 'incomplete'}: {regional.report_count} of {len(sent)} reports received")
    return good


def _step(say: Callable[[str], None], number: int, text: str) -> None:
    say(f"[{number}/{STEPS}] {text}")


def _say_done(say: Callable[[str], None], text: str) -> None:
    say(f"  ok: {text}")


def _version(client: MqttClient) -> str:
    return "5" if client.protocol_version == 5 else "3.1.1"
