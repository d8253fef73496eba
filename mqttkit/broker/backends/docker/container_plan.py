"""The description of the broker's container, for the Docker SDK and as a compose file. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.mosquitto.configuration import Listener
from mqttkit.broker.ports import numeric
from mqttkit.broker.profile import LOOPBACK, BrokerSpec

DEFAULT_IMAGE = "eclipse-mosquitto:2.0.22"
"""Pinned, because a tag that moves may replace the broker without notice."""
LABEL = "org.mqttkit.broker"
"""Label with the broker's name, on every container and volume that we create."""
DIRECTORY_LABEL = "org.mqttkit.directory"
"""Label with the state directory that the broker belongs to."""
HOME = "/mosquitto"
INNER_PORT, INNER_WEBSOCKET_PORT, INNER_TLS_PORT = 1883, 9001, 8883
ANY = "0.0.0.0"  # noqa: S104 - inside the container; the published ports decide who reaches it
SPARE_DESCRIPTORS = 64
MEMORY = {"small": 128 << 20, "default": 512 << 20, "high-traffic": 4 << 30}
"""Bytes that the container may use, by tuning profile."""
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")
"""What the image needs to give its files to the broker's user and to become that user."""
PROBE_HOME = "config/probe"
HEALTH_TOPIC = "mqttkit/probe/health"
HEALTH_COMMAND = (
    'p="health-$(hostname)-$(date +%s)"; '
    f'[ "$(XDG_CONFIG_HOME={HOME}/{PROBE_HOME} mosquitto_rr -h 127.0.0.1 -p {INNER_PORT} '
    f'-t {HEALTH_TOPIC} -e {HEALTH_TOPIC} -m "$p" -W 4)" = "$p" ]'
)
"""Log in as the probe and send a unique payload to ourselves; the password is only in a file."""
LOG_LIMITS = {"max-size": "10m", "max-file": "3"}
"""Options of the engine's log driver `json-file`."""
SECOND = 1_000_000_000
"""Nanoseconds, the engine's unit."""
HEALTH_INTERVAL, HEALTH_TIMEOUT, HEALTH_START, HEALTH_RETRIES = 30, 6, 5, 3
"""Seconds, seconds, seconds, times."""


@dataclass(frozen=True, kw_only=True)
class BesideService:
    """Another service of the compose file, which starts after the broker and shares its network."""

    suffix: str
    """Appended to the broker's name: the name of the service and of its volume."""
    image: str
    command: Sequence[str]
    mounts: Sequence[str]
    """Directories of this machine, as compose takes them."""
    state: str
    """Where its volume is mounted."""
    port: int
    """Port that is published on loopback."""
    health: Sequence[str]
    """Health check, as words of a command."""
    stop_seconds: int
    """How long it may take to stop."""
    comment: Sequence[str]
    """What to do before the first start."""

    def lines(self, broker: str, network: str | None) -> list[str]:
        """Return its lines of the compose file."""
        name = f"{broker}-{self.suffix}"
        return [
            *(f"  # {line}" for line in self.comment),
            f"  {name}:",
            f"    image: {json.dumps(self.image)}",
            "    restart: unless-stopped",
            f"    command: {json.dumps([word.replace('$', '$$') for word in self.command])}",
            f"    volumes: {json.dumps([*self.mounts, f'{name}:{self.state}'])}",
            f"    ports: {json.dumps([f'127.0.0.1:{self.port}:{self.port}'])}",
            f"    depends_on: {json.dumps([broker])}",
            f"    healthcheck:\n      test: {json.dumps(['CMD', *self.health])}\n      interval: {HEALTH_INTERVAL}s",
            f"    stop_grace_period: {self.stop_seconds}s",
            f"    logging: {json.dumps({'driver': 'json-file', 'options': LOG_LIMITS})}",
            *([f"    networks: {json.dumps([network])}"] if network else []),
        ]


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """Everything that describes the container."""

    spec: BrokerSpec
    """The broker's settings, with its ports chosen."""
    image: str
    """Image reference."""
    directory: str
    """State directory that the broker belongs to."""

    @property
    def name(self) -> str:
        """Name of the container."""
        return f"mqttkit-{self.spec.name}"

    @property
    def volumes(self) -> dict[str, str]:
        """Mount point of each volume by its name."""
        return {f"{self.name}-config": f"{HOME}/config", f"{self.name}-data": f"{HOME}/data"}

    @property
    def labels(self) -> dict[str, str]:
        """Labels of container and volumes."""
        return {LABEL: self.spec.name, DIRECTORY_LABEL: self.directory}

    @property
    def ports(self) -> dict[int, int]:
        """Port in the container to port of this machine."""
        inner = {"port": INNER_PORT, "websocket_port": INNER_WEBSOCKET_PORT, "tls_port": INNER_TLS_PORT}
        return {inner[name]: outer for name, outer in self.spec.ports.items() if outer}

    @property
    def descriptors(self) -> int:
        """File descriptors that the broker may have; without a limit libwebsockets allocates memory for every one."""
        return max(
            1_024, configuration.tuning(self.spec.tuning, self.spec.overrides).max_connections + SPARE_DESCRIPTORS
        )

    def listeners(self) -> list[Listener]:
        """Return the listeners inside the container; its health check needs one without TLS."""
        return configuration.build_listeners(
            self.spec,
            plain=ANY if self.spec.plain else LOOPBACK,
            bind=ANY,
            port=INNER_PORT,
            websocket_port=INNER_WEBSOCKET_PORT if self.spec.websocket_port else None,
            tls_port=INNER_TLS_PORT if self.spec.tls_port else None,
        )

    def configuration(self, version: tuple[int, ...], *, revocations: bool = True, plugins: str | None = None) -> str:
        """Return mosquitto.conf for the version of the image's mosquitto."""
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        return configuration.mosquitto_conf(
            self.listeners(),
            settings,
            version=version,
            anonymous=self.spec.anonymous,
            root=f"{HOME}/",
            log_types=self.spec.log_types,
            revocations=revocations,
            plugins=plugins,
        )

    def compose(self, beside: Sequence[BesideService] = ()) -> str:
        """Return a compose file of the same set-up, for the volumes that `up` fills, and of services beside it."""
        published = [f"{_bracketed(self.address(inner))}:{outer}:{inner}" for inner, outer in self.ports.items()]
        command = HEALTH_COMMAND.replace("$", "$$")
        lines = [
            "# Written by `mqttkit broker compose`. The volumes hold configuration, users and messages;",
            "# `mqttkit broker up --backend docker` creates and fills them.",
            "services:",
            f"  {self.name}:",
            f"    image: {json.dumps(self.image)}",
            f"    container_name: {self.name}",
            f"    restart: {self.restart}",
            f"    ports: {json.dumps(published)}",
            f"    volumes: {json.dumps([f'{volume}:{place}' for volume, place in self.volumes.items()])}",
            f"    tmpfs: {json.dumps([f'{HOME}/log'])}",
            f"    labels: {json.dumps(self.labels)}",
            f"    mem_limit: {MEMORY[self.spec.tuning]}",
            f"    ulimits: {json.dumps({'nofile': {'soft': self.descriptors, 'hard': self.descriptors}})}",
            f'    cap_drop: ["ALL"]\n    cap_add: {json.dumps(CAPABILITIES)}',
            '    security_opt: ["no-new-privileges:true"]',
            "    healthcheck:",
            f"      test: {json.dumps(['CMD-SHELL', command])}",
            f"      interval: {HEALTH_INTERVAL}s\n      timeout: {HEALTH_TIMEOUT}s",
            f"      start_period: {HEALTH_START}s\n      retries: {HEALTH_RETRIES}",
            f"    logging: {json.dumps({'driver': 'json-file', 'options': LOG_LIMITS})}",
            *([f"    networks: {json.dumps([self.spec.network])}"] if self.spec.network else []),
            *(line for service in beside for line in service.lines(self.name, self.spec.network)),
            "volumes:",
            *(f"  {volume}:\n    external: true" for volume in self.volumes),
            *(f"  {self.name}-{service.suffix}: {{}}" for service in beside),
            *self._networks(),
        ]
        return "\n".join(lines) + "\n"

    def _networks(self) -> list[str]:
        """Return the user's network, or the one that compose creates, whose name does not depend on the directory."""
        if self.spec.network:
            return [f"networks:\n  {self.spec.network}:\n    external: true"]
        return [f"networks:\n  default:\n    name: {self.name}"]

    @property
    def restart(self) -> str:
        """Restart policy."""
        return "no" if self.spec.temporary else "unless-stopped"

    def address(self, inner: int) -> str:
        """Return the numeric address of this machine on which a port of the container is published."""
        return numeric(self.spec.plain_listen if inner == INNER_PORT else self.spec.listen)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
