"""rumqttd from the `iotcore` wheel, in a child process: a broker that needs no installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
from dataclasses import replace

from mqttkit.broker.accounts.passwords import generate_password
from mqttkit.broker.backends.local_process import READY_SECONDS, LocalBroker
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.ports import is_free, nearby_free_port, port_owner, reachable_host
from mqttkit.broker.probe import operator_login
from mqttkit.broker.profile import BrokerSpec, Profile, read_profile
from mqttkit.broker.protocol import Feature, UpResult, require
from mqttkit.broker.readiness import wait_ready
from mqttkit.errors import LifecycleError, MissingPart, PortTaken

INSTALL = "Install it with: pip install 'mqttkit[embedded]'"
CONFIG = "config/rumqttd.toml"
SEGMENT_BYTES = 16 * 1024 * 1024
"""Size of one of the ten segments in which rumqttd keeps each topic's messages."""

MAX_OUTGOING = 10_000
"""Packets that rumqttd queues for one client; a new subscriber receives no more retained messages than this."""


class EmbeddedBroker(LocalBroker):
    """rumqttd: one user, two ports, and nothing survives a restart."""

    backend = "embedded"

    @classmethod
    def unusable(cls) -> str:
        """Return why this machine cannot run the embedded broker, or an empty string."""
        return "" if importlib.util.find_spec("iotcore") else "the package iotcore is not installed"

    def version(self) -> tuple[int, ...]:
        """Return the version of the `iotcore` package."""
        text = importlib.metadata.version("iotcore")
        return tuple(int(part) for part in re.findall(r"\d+", text))

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "mqttkit.broker.backends.embedded_process", CONFIG]
        return [*command, "--with-parent"] if self.spec.temporary else command

    def _owns(self, arguments: list[str]) -> bool:
        return "mqttkit.broker.backends.embedded_process" in arguments

    def _prepare(self, profile: Profile | None) -> Profile:
        if self.unusable():
            raise MissingPart(self.unusable(), hint=INSTALL)
        new = self._new_profile(profile)
        self.write_file(CONFIG, rumqttd_toml(self.spec, new).encode())
        return new

    def configuration(self) -> str:
        """Return rumqttd's configuration."""
        profile = read_profile(self.paths)
        return "" if profile is None else rumqttd_toml(self.spec, profile)

    def _start(self, profile: Profile | None) -> UpResult:
        """Start the broker; raise `PortTaken` if another program took the port that we chose for MQTT 5."""
        try:
            return super()._start(profile)
        except LifecycleError as error:
            new, process = read_profile(self.paths), self._process()
            owner = new and new.v5_port and port_owner(new.v5_port)
            if owner and not (process and f"(pid {process.pid})" in owner):
                raise PortTaken(f"the port chosen for MQTT 5 was taken by {owner}") from error
            raise

    def _prove(self) -> None:
        """Require that MQTT 5 answers too: rumqttd runs on without a listener whose port is taken."""
        profile = read_profile(self.paths)
        if profile is None or profile.v5_port is None:
            return
        login = replace(operator_login(profile), port=profile.v5_port, version="5")
        wait_ready(login, seconds=READY_SECONDS, died=lambda: "" if self.running() else "it ended")

    def _check(self) -> None:
        """Raise `UsageError` also for the first setting that rumqttd does not support."""
        super()._check()
        spec = self.spec
        if spec.websocket_port:
            require(self, Feature.WEBSOCKETS, "--websocket-port")
        if spec.tls_port:
            require(self, Feature.TLS, "--tls-port")
        if spec.tuning != "default" or spec.overrides:
            require(self, Feature.TUNING, "tuning")

    def _new_profile(self, old: Profile | None) -> Profile:
        spec = self.spec
        named = not spec.anonymous
        return Profile(
            name=spec.name,
            backend=self.backend,
            host=reachable_host(spec.listen),
            port=spec.port,
            version="311",
            username=configuration.OPERATOR if named else None,
            password=((old and old.password) or generate_password()) if named else None,
            v5_port=self._v5_port(old),
        )

    def _v5_port(self, old: Profile | None) -> int:
        """Return the port of MQTT 5: the previous one if it is still free."""
        if old is not None and old.v5_port and is_free(self.spec.listen, old.v5_port):
            return old.v5_port
        return nearby_free_port(self.spec.listen, self.spec.port)


def rumqttd_toml(spec: BrokerSpec, profile: Profile) -> str:
    """Return rumqttd's configuration: MQTT 3.1.1 on the profile's port, MQTT 5 on its `v5_port`."""
    settings = configuration.tuning("default", {})
    servers = ""
    for kind, port in (("v4", profile.port), ("v5", profile.v5_port)):
        servers += f"""
[{kind}.1]
name = "{kind}"
listen = "{_bracketed(spec.listen)}:{port}"
next_connection_delay_ms = 1

[{kind}.1.connections]
connection_timeout_ms = 60000
max_payload_size = {settings.max_packet_size}
max_inflight_count = {settings.max_inflight_messages}
dynamic_filters = true
"""
        if profile.username and profile.password:
            servers += f"auth = {{ {json.dumps(profile.username)} = {json.dumps(profile.password)} }}\n"
    return f"""{configuration.HEAD}id = 0

[router]
id = 0
max_connections = {settings.max_connections}
max_outgoing_packet_count = {MAX_OUTGOING}
max_segment_size = {SEGMENT_BYTES}
max_segment_count = 10
{servers}"""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
