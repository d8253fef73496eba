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
class Door:
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


class Patient:
    """A broker under examination."""

    def __init__(self, broker: Broker, profile: Profile, running: Running | None) -> None:
        self.broker = broker
        self.profile = profile
        self._running = running

    @property
    def spec_name(self) -> str:
        """` --name NAME` for commands, empty for the default broker."""
        name = self.broker.spec.name
        return "" if name == "default" else f" --name {name}"

    @property
    def restart(self) -> str:
        """The command that starts the broker anew."""
        return f"mqttkit broker restart{self.spec_name}"

    def door(self, name: str) -> Door:
        """Return the listener of this name; raise `LifecycleError` where there is none."""
        for door in self.doors:
            if door.name == name:
                return door
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
    def doors(self) -> list[Door]:
        """Every listener."""
        profile = self.profile
        plain = profile.to_broker_settings()
        found = [Door("MQTT", plain, profile.version)]
        if profile.v5_port:
            found.append(Door("MQTT 5", replace(plain, port=profile.v5_port), "5"))
        if profile.websocket_port:
            secured = TlsSettings(ca_file=profile.ca_file, insecure=True) if profile.websocket_tls else None
            settings = replace(plain, port=profile.websocket_port, transport="websockets", tls=secured)
            found.append(Door("WebSocket", settings))
        if profile.tls_port:
            tls = TlsSettings(ca_file=profile.ca_file, insecure=True)
            found.append(Door("TLS", replace(plain, port=profile.tls_port, tls=tls)))
        return found

    def client(self, username: str | None, password: str | None, **handlers: object) -> MqttClient:
        """Return a client of the first listener, not connected yet."""
        broker = replace(self.doors[0].settings, username=username, password=password)
        settings = MqttSettings(broker=broker, client=ClientSettings(version=self.doors[0].version))
        return MqttClient(settings, retry=False, **handlers)  # type: ignore[arg-type]  # handlers of MqttClient


def patient_of(broker: Broker) -> Patient:
    """Return the patient; raise `LifecycleError` where `up` never came to its end."""
    profile = read_profile(broker.paths)
    if profile is None:
        raise LifecycleError(
            f"broker {broker.spec.name!r} was never started whole", hint="Start it with: mqttkit broker up"
        )
    return Patient(broker, profile, broker.running())


def down(patient: Patient) -> str:
    """Return why nothing can be tried on the broker, or an empty string."""
    return "" if patient.up else "the broker does not run"


def lacks(*features: Feature) -> Callable[[Patient], str]:
    """Return an obstacle: what the backend lacks."""

    def obstacle(patient: Patient) -> str:
        found = [LACKS[patient.broker.backend][one] for one in features if one in LACKS[patient.broker.backend]]
        return "; ".join(found)

    return obstacle


def without_tls(patient: Patient) -> str:
    """Return an obstacle: there is no TLS listener."""
    return "" if patient.profile.tls_port else "there is no TLS listener"


def without_websocket(patient: Patient) -> str:
    """Return an obstacle: there is no WebSocket listener."""
    return "" if patient.profile.websocket_port else "there is no WebSocket listener"


def refusal(door: Door, username: str | None, password: str | None) -> str | None:
    """Return how the listener refuses these credentials, or None where it lets them in.

    A broker that closes the connection instead of answering refuses too. Raises `BrokerUnreachable` where the
    connection did not come that far.
    """
    broker = replace(door.settings, username=username, password=password)
    settings = MqttSettings(broker=broker, client=ClientSettings(version=door.version))
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
