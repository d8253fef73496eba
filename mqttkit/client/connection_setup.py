"""From settings to a paho client that is ready to connect."""

from __future__ import annotations

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from mqttkit.addresses import parse_proxy
from mqttkit.client.connection import Connection
from mqttkit.client.packets import properties as convert
from mqttkit.client.transport.tls import TlsFiles
from mqttkit.config import read_secret
from mqttkit.errors import UsageError
from mqttkit.messages import Will
from mqttkit.settings import MqttSettings


def checked_settings(settings: MqttSettings) -> MqttSettings:
    """Return `settings` if they can work together; raise UsageError if not."""
    if not settings.client.clean_session and not settings.client.client_id:
        raise UsageError("only a client with a fixed client identifier can keep a session", hint="Give one: -i")
    return settings


def make_connection(settings: MqttSettings, client_id: str, *, will: Will | None, manual_ack: bool) -> Connection:
    """Return a connection with credentials, TLS, WebSocket path and will; raise ConfigError for a file."""
    broker = settings.broker
    connection = Connection(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv311 if settings.client.version == "311" else MQTTProtocolVersion.MQTTv5,
        transport="websockets" if broker.transport == "websockets" else "tcp",
        manual_ack=manual_ack,
    )
    connection.added = settings.properties
    connection.connect_timeout = settings.client.connect_timeout
    password = broker.password
    if password is None and broker.password_file is not None:
        password = read_secret(broker.password_file, "", "password_file")
    if broker.username is not None or password is not None:
        connection.username_pw_set(broker.username or "", password)
    connection.opener.timeout = settings.client.connect_timeout
    connection.opener.user_timeout = settings.client.keep_alive
    connection.opener.max_unsent_bytes = settings.limits.max_unsent_bytes
    connection.opener.source = broker.bind_address
    if broker.proxy is not None and broker.unix_socket is None:
        connection.opener.proxy = parse_proxy(broker.proxy)
    if broker.unix_socket is not None:
        connection.opener.server_name = broker.host
    if broker.transport == "websockets":
        connection.opener.websocket_path = broker.websocket_path
    if broker.tls is not None:
        connection.opener.tls = TlsFiles(broker.tls)
        connection.tls_set_context(connection.opener.tls.context())  # paho then expects a socket with TLS
    if will is not None:
        set_will(connection, will)
    return connection


def set_will(connection: Connection, will: Will) -> None:
    """Send this will with the next CONNECT."""
    properties = convert.will_properties(will) if connection.protocol == MQTTProtocolVersion.MQTTv5 else None
    connection.will_set(will.topic, will.payload, will.qos, will.retain, properties)
