"""`connect`: from a URL or settings to a client that connects when its `with` block begins."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypedDict

from mqttkit.addresses import parse_url
from mqttkit.client import MqttClient
from mqttkit.errors import UsageError
from mqttkit.messages import Will
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, Settings, TlsSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


_NOT_SETTINGS = ("will", "manual_ack", "retry")


class SettingOptions(TypedDict, total=False):
    """Settings that `connect` takes as keywords: fields of TlsSettings, BrokerSettings and ClientSettings."""

    username: str | None
    password: str | None
    password_file: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    insecure: bool
    client_id: str | None
    keep_alive: int
    clean_session: bool
    session_expiry: int
    version: str
    receive_maximum: int
    connect_timeout: float


class ConnectOptions(SettingOptions, total=False):
    """Everything that `connect` takes as keywords."""

    will: Will | None
    manual_ack: bool
    retry: bool


class Client(MqttClient):
    """A client that connects when its `with` block begins, and disconnects when it ends."""

    def __enter__(self) -> Client:
        self.connect()
        return self


def connect(broker: str | MqttSettings | Settings, **options: Unpack[ConnectOptions]) -> Client:
    """Return a client of `broker`: a URL such as mqtts://host:8883, or settings. `with` connects it.

    Keywords override the settings. `will` is published by the broker if the client disappears, `manual_ack` leaves
    acknowledgements to `Client.ack`, and `retry=False` gives up after the first lost connection.
    Raises UsageError, or ConfigError for a setting; `with` raises BrokerUnreachable or ConnectionRefused.
    """
    settings, others = split_options(broker, options)
    return Client(settings, **others)


def split_options(
    broker: str | MqttSettings | Settings, options: ConnectOptions
) -> tuple[MqttSettings, dict[str, Any]]:
    """Return the settings that URL, settings and keywords ask for, and the keywords that are not settings."""
    known = ConnectOptions.__annotations__.keys()
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"connect() has no option {unknown[0]!r}: use one of {', '.join(known)}")
    values: dict[str, Any] = dict(options)
    others: dict[str, Any] = {name: values.pop(name) for name in _NOT_SETTINGS if name in values}
    return _override(_base(broker), values), others


def _base(broker: str | MqttSettings | Settings) -> MqttSettings:
    if isinstance(broker, Settings):
        return broker.mqtt
    if isinstance(broker, MqttSettings):
        return broker
    if not isinstance(broker, str):
        raise TypeError(f"connect() takes a URL or settings, not {type(broker).__name__}")
    url = parse_url(broker)
    if url.path and not url.websockets:
        raise UsageError(f"the URL has the topic {url.path!r}", hint="Subscribe to it instead: client.subscribe(…)")
    found = BrokerSettings(
        host=url.host,
        port=url.port,
        username=url.username,
        password=url.password,
        tls=TlsSettings() if url.tls else None,
        transport="websockets" if url.websockets else "tcp",
        websocket_path=f"/{url.path}" if url.path else BrokerSettings.websocket_path,
    )
    return MqttSettings(broker=found)


def _override(settings: MqttSettings, values: dict[str, Any]) -> MqttSettings:
    """Return the settings with other values for single fields, by the field's name."""
    if values.get("password") is not None and values.get("password_file") is not None:
        raise UsageError("give password or password_file, not both")
    tls = _of(TlsSettings, values)
    if tls and settings.broker.tls is None:
        raise UsageError(f"{next(iter(tls))} needs a broker with TLS", hint="Use mqtts:// or wss://")
    of_broker = _of(BrokerSettings, values)
    if tls and settings.broker.tls is not None:
        of_broker["tls"] = dataclasses.replace(settings.broker.tls, **tls)
    if of_broker.get("password_file") is not None:
        of_broker["password"] = None
    broker = dataclasses.replace(settings.broker, **of_broker)
    client = dataclasses.replace(settings.client, **_of(ClientSettings, values))
    return dataclasses.replace(settings, broker=broker, client=client)


def _of(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}
