"""The broker that the checks examine, and the logins that several of them try."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.broker.profile import Profile, read_profile
from mqttkit.broker.protocol import LACKS, Broker, Feature, Running
from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, LifecycleError
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, TlsSettings

LOGIN_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    """One listener, as a client sees it."""

    name: str
    """`MQTT`, `MQTT 5`, `WebSocket` or `TLS`."""
    settings: BrokerSettings
    """How to connect, as the operator."""
    version: str = "auto"
    """MQTT version it speaks."""

    @property
    def port(self) -> int:
        """Its TCP port."""
        return self.settings.port

    @property
    def encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self.settings.tls is not None


class ExaminedBroker:
    """A broker and what `up` stored about it."""

    def __init__(self, broker: Broker, profile: Profile, running: Running | None) -> None:
        self.broker = broker
        self.profile = profile
        self._running = running

    @classmethod
    def of(cls, broker: Broker) -> ExaminedBroker:
        """Read profile and state of a broker; raise `LifecycleError` if no `up` ever completed."""
        profile = read_profile(broker.paths)
        if profile is None:
            raise LifecycleError(
                f"broker {broker.spec.name!r} was never started completely", hint="Start it with: mqttkit broker up"
            )
        return cls(broker, profile, broker.running())

    @property
    def name_option(self) -> str:
        """` --name NAME` for commands; empty for the default broker."""
        name = self.broker.spec.name
        return "" if name == "default" else f" --name {name}"

    @property
    def restart(self) -> str:
        """The command that restarts the broker."""
        return f"mqttkit broker restart{self.name_option}"

    def endpoint(self, name: str) -> Endpoint:
        """Return the listener of this name; raise `LifecycleError` if there is none."""
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise LifecycleError(f"the broker has no {name} listener")

    @property
    def up(self) -> bool:
        """Whether it is running."""
        return self._running is not None

    @property
    def running(self) -> Running:
        """The running broker; raises `LifecycleError` if it is down."""
        if self._running is None:
            raise LifecycleError("the broker is not running")
        return self._running

    @functools.cached_property
    def accounts(self) -> AccountFiles:
        """Users and ACL; raises `UsageError` if the files are invalid."""
        read = self.broker.read_file
        return AccountFiles.parse(read(PASSWORD_FILE), read(ACL_FILE))

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every listener."""
        profile = self.profile
        plain = profile.to_broker_settings()
        found = [Endpoint("MQTT", plain, profile.version)] if profile.plain else []
        if profile.v5_port:
            found.append(Endpoint("MQTT 5", replace(plain, port=profile.v5_port), "5"))
        others = replace(plain, host=profile.other_host or profile.host)
        if profile.websocket_port:
            secured = TlsSettings(ca_file=profile.ca_file, insecure=True) if profile.websocket_tls else None
            settings = replace(others, port=profile.websocket_port, transport="websockets", tls=secured)
            found.append(Endpoint("WebSocket", settings))
        if profile.tls_port:
            tls = TlsSettings(ca_file=profile.ca_file, insecure=True)
            found.append(Endpoint("TLS", replace(others, port=profile.tls_port, tls=tls)))
        return found

    def client(self, username: str | None, password: str | None, **handlers: object) -> MqttClient:
        """Return a client of the first listener, not connected yet."""
        broker = replace(self.profile.to_broker_settings(), username=username, password=password)
        settings = MqttSettings(broker=broker, client=ClientSettings(version=self.profile.version))
        return MqttClient(settings, retry=False, **handlers)  # type: ignore[arg-type]  # handlers of MqttClient


def down(examined: ExaminedBroker) -> str:
    """Return that the broker is down, or an empty string."""
    return "" if examined.up else "the broker is not running"


def lacks(*features: Feature) -> Callable[[ExaminedBroker], str]:
    """Return an obstacle: the features that the backend lacks."""

    def obstacle(examined: ExaminedBroker) -> str:
        found = [LACKS[examined.broker.backend][one] for one in features if one in LACKS[examined.broker.backend]]
        return "; ".join(found)

    return obstacle


def without_tls(examined: ExaminedBroker) -> str:
    """Return that the broker has no TLS listener, or an empty string."""
    return "" if examined.profile.tls_port else "the broker has no TLS listener"


def without_websocket(examined: ExaminedBroker) -> str:
    """Return that the broker has no WebSocket listener, or an empty string."""
    return "" if examined.profile.websocket_port else "the broker has no WebSocket listener"


def refusal(endpoint: Endpoint, username: str | None, password: str | None) -> str | None:
    """Return how the listener refuses these credentials, or None if it accepts them.

    A broker that closes the connection instead of answering refuses too. Raises `BrokerUnreachable` if the
    connection fails before the login.
    """
    broker = replace(endpoint.settings, username=username, password=password)
    settings = MqttSettings(broker=broker, client=ClientSettings(version=endpoint.version))
    client = MqttClient(settings, retry=False)
    try:
        client.connect(timeout=LOGIN_SECONDS)
    except ConnectionRefused as error:
        return error.reason
    except BrokerUnreachable as error:
        if error.step != "mqtt":
            raise
        return "connection closed"
    finally:
        client.close(flush=0)
    return None
