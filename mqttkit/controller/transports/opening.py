"""Opens the transports that a controller's settings name."""

from __future__ import annotations

from collections.abc import Callable

from mqttkit.controller.configuration import listen_address
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import Codec
from mqttkit.controller.transports.in_process import MemoryBus, MemoryTransport
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.controller.transports.types import Transport
from mqttkit.messages import Will
from mqttkit.settings import ControllerSettings, MqttSettings, TlsSettings


def open_transports(
    settings: ControllerSettings,
    mqtt: MqttSettings,
    topics: Topics,
    codec: Codec,
    *,
    will: Callable[[int], Will] | None,
    bus: MemoryBus,
) -> list[Transport]:
    """Return each transport that has an address, in the configured order. None is started."""
    found: list[Transport] = []
    for name in settings.transports:
        if name == "mqtt":
            client_id = settings.id if will is not None else mqtt.client.client_id  # a short-lived one has any
            found.append(MqttTransport(mqtt, client_id or "", will=will, keep_session=settings.keep_session))
        elif name == "http":
            found += _open_http(settings, topics, codec, mqtt.broker.tls)
        elif name == "memory":
            found.append(MemoryTransport(bus))
    return found


def _open_http(settings: ControllerSettings, topics: Topics, codec: Codec, tls: TlsSettings | None) -> list[Transport]:
    """Return the hub, or the transport to another controller's hub, or nothing without an address."""
    if settings.http_listen is not None:
        from mqttkit.controller.transports.http_hub import HttpHub
        from mqttkit.controller.transports.hub_gate import HubGate

        host, port = listen_address(settings.http_listen)
        gate = HubGate(topics, codec, skew=settings.clock_skew)
        limit = settings.max_message_bytes
        return [HttpHub(host, port, max_bytes=limit, check=gate.check, check_reader=gate.check_reader)]
    if settings.http_url is None:
        return []
    from mqttkit.controller.transports.http import HttpTransport

    controller_id = settings.id or ""

    def sign(path: str) -> str:
        return codec.sign_request(controller_id, path)

    return [HttpTransport(settings.http_url, poll_seconds=settings.poll_interval, tls=tls, sign=sign)]
