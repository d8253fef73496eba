"""What the checks of a broker look at: read once, and the logins that several of them try."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from mqttkit.broker.accounts.roles import ACL_NAME, PASSWORDS_NAME, AccountFiles
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
        """Tell whether it speaks TLS."""
        return self.settings.tls is not None


class ExaminedBroker:
    """A broker under examination."""

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
    def spec_name(self) -> str:
        """` --name NAME` for commands, empty for the default broker."""
        name = self.broker.spec.name
        return "" if name == "default" else f" --name {name}"

    @property
    def restart(self) -> str:
        """The command that starts the broker anew."""
        return f"mqttkit broker restart{self.spec_name}"

    def endpoint(self, name: str) -> Endpoint:
        """Return the listener of this name; raise `LifecycleError` where there is none."""
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise LifecycleError(f"the broker has no {name} listener")

    @property
    def up(self) -> bool:
        """Tell whether it runs."""
        return self._running is not None

    @property
    def running(self) -> Running:
        """The running broker; raises `LifecycleError` where it is down."""
        if self._running is None:
            raise LifecycleError("the broker does not run")
        return self._running

    @functools.cached_property
    def accounts(self) -> AccountFiles:
        """Users and ACL; raises `UsageError` where the files are broken."""
        read = self.broker.read_file
        return AccountFiles.parse(read(PASSWORDS_NAME), read(ACL_NAME))

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every listener."""
        profile = self.profile
        plain = profile.to_broker_settings()
        found = [Endpoint("MQTT", plain, profile.version)]
        if profile.v5_port:
            found.append(Endpoint("MQTT 5", replace(plain, port=profile.v5_port), "5"))
        if profile.websocket_port:
            secured = TlsSettings(ca_file=profile.ca_file, insecure=True) if profile.websocket_tls else None
            settings = replace(plain, port=profile.websocket_port, transport="websockets", tls=secured)
            found.append(Endpoint("WebSocket", settings))
        if profile.tls_port:
            tls = TlsSettings(ca_file=profile.ca_file, insecure=True)
            found.append(Endpoint("TLS", replace(plain, port=profile.tls_port, tls=tls)))
        return found

    def client(self, username: str | None, password: str | None, **handlers: object) -> MqttClient:
        """Return a client of the first listener, not connected yet."""
        broker = replace(self.endpoints[0].settings, username=username, password=password)
        settings = MqttSettings(broker=broker, client=ClientSettings(version=self.endpoints[0].version))
        return MqttClient(settings, retry=False, **handlers)  # type: ignore[arg-type]  # handlers of MqttClient


def down(examined: ExaminedBroker) -> str:
    """Return why nothing can be tried on the broker, or an empty string."""
    return "" if examined.up else "the broker does not run"


def lacks(*features: Feature) -> Callable[[ExaminedBroker], str]:
    """Return an obstacle: what the backend lacks."""

    def obstacle(examined: ExaminedBroker) -> str:
        found = [LACKS[examined.broker.backend][one] for one in features if one in LACKS[examined.broker.backend]]
        return "; ".join(found)

    return obstacle


def without_tls(examined: ExaminedBroker) -> str:
    """Return an obstacle: there is no TLS listener."""
    return "" if examined.profile.tls_port else "there is no TLS listener"


def without_websocket(examined: ExaminedBroker) -> str:
    """Return an obstacle: there is no WebSocket listener."""
    return "" if examined.profile.websocket_port else "there is no WebSocket listener"


def refusal(endpoint: Endpoint, username: str | None, password: str | None) -> str | None:
    """Return how the listener refuses these credentials, or None where it lets them in.

    A broker that closes the connection instead of answering refuses too. Raises `BrokerUnreachable` where the
    connection did not come that far.
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
