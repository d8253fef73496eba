"""From settings to a paho client that is ready to connect."""

from __future__ import annotations

from collections.abc import Callable

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.client.connector import V5, ConnectionState, Connector
from mqttkit.errors import UsageError
from mqttkit.messages import Will
from mqttkit.settings import MqttSettings


def checked_settings(settings: MqttSettings) -> MqttSettings:
    """Return `settings` where they can work together; raise UsageError where not."""
    if not settings.client.clean_session and not settings.client.client_id:
        raise UsageError("a session can only be kept under a fixed client identifier", hint="Give one: -i")
    return settings


def make_connector(
    settings: MqttSettings,
    client_id: str,
    *,
    will: Will | None,
    manual_ack: bool,
    retry: bool,
    report: Callable[[ConnectionState, str], None],
) -> Connector:
    """Return a connector with credentials, TLS, WebSocket path and will; raise what the files of TLS raise."""
    broker = settings.broker
    paho = Connector(settings, client_id=client_id, manual_ack=manual_ack, retry=retry, report=report)
    if broker.username is not None or broker.password is not None:
        paho.username_pw_set(broker.username or "", broker.password)
    if broker.tls is not None:
        from mqttkit.client.tls import make_context

        paho.tls_set_context(make_context(broker.tls))
        paho.tls_insecure_set(broker.tls.insecure)
    paho.ws_set_options(path=broker.websocket_path)
    if will is not None:
        set_will(paho, will)
    return paho


def set_will(paho: Connector, will: Will) -> None:
    """Send this will with the next CONNECT."""
    properties = _will_properties(will) if paho.protocol == V5 else None
    paho.will_set(will.topic, will.payload, will.qos, will.retain, properties)


def _will_properties(will: Will) -> PahoProperties | None:
    if not will.delay_interval:
        return None
    properties = PahoProperties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = will.delay_interval
    return properties
