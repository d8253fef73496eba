"""`mqttkit decode` as a service: raw advertisements of many gateways in, one state per device out."""

from __future__ import annotations

import json
import logging
import time

from mqttkit.client import MqttClient
from mqttkit.decode.decoders import Decoders
from mqttkit.decode.devices import DecodedDevice, DeviceTable
from mqttkit.decode.discovery import config_topic, discovery, discovery_inputs, state
from mqttkit.errors import AdvertisementError, TopicError
from mqttkit.messages import Message, Will
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.settings import DecodeSettings
from mqttkit.stop import Stop
from mqttkit.topics import check_scanner_id, fill_template

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""A device that is heard but does not change is published this often."""
_TICK = 1.0


def will_of(settings: DecodeSettings) -> Will:
    """Return the will that marks the service offline."""
    return Will(settings.status, "offline", qos=1, retain=True)


class DecodeService:
    """Decodes until `stop` is called. One thread runs it."""

    def __init__(self, client: MqttClient, decoders: Decoders, settings: DecodeSettings) -> None:
        self.malformed = 0
        """Messages that are not advertisements."""
        self.published = 0
        self._client = client
        self._settings = settings
        self._table = DeviceTable(decoders, window=settings.window, away_after=settings.away_after)
        self._connects = 0
        self._next_tick = 0.0
        self._stop = Stop()

    def run(self) -> None:
        """Subscribe and publish until `stop`; then mark the service offline. Raises the client's failure."""
        while self._continues() and not self._client.wait_connected(_TICK):
            pass
        if self._continues():
            self._client.subscribe(self._settings.raw)
        while self._continues():
            self._tick()
            for message in self._client.messages(timeout=_TICK):
                self._take(message)
                self._tick()
                if not self._continues():
                    break
        if self._client.given_up and self._client.failure is not None:
            raise self._client.failure
        self._client.publish(self._settings.status, "offline", qos=1, retain=True).wait(_TICK)

    def stop(self) -> None:
        """End `run` soon. Any thread or signal handler may call it."""
        self._stop.set()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self._table.counts.items())
        return f"{counts or 'no advertisements'}, {self.malformed} malformed, {self.published} states published"

    def _continues(self) -> bool:
        return not self._stop.is_set and not self._client.given_up

    def _take(self, message: Message) -> None:
        if not message.payload or message.retain:
            return
        try:
            fields = json.loads(message.payload)
            advertisement = Advertisement.from_json(fields, timestamp=time.time())
            gateway = check_scanner_id(str(fields["scanner_id"]))
        except (AdvertisementError, TopicError, ValueError, KeyError, RecursionError) as error:
            self.malformed += 1
            log.debug("%s is not an advertisement: %r", message.topic, error)
            return
        device = self._table.add(gateway, advertisement, time.monotonic())
        if device is not None:
            self._publish(device)

    def _tick(self) -> None:
        """Publish which devices went away and the states that are due; after a new connection, everything."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK
        connects = self._client.stats.connects
        if connects != self._connects and self._client.connected:
            self._connects = connects
            self._client.publish(self._settings.status, "online", qos=1, retain=True)
            for device in self._table:
                device.announced, device.published = None, None
        for device in self._table.expire(now):
            self._publish(device)
        for device in self._table:
            if device.published is None or (device.home and now - device.published >= REFRESH_SECONDS):
                self._publish(device)

    def _publish(self, device: DecodedDevice) -> None:
        """Publish the state, and before it the discovery message if it has changed."""
        settings, mac_address = self._settings, device.mac_address
        topic = fill_template(settings.state, {"mac_address": mac_address})
        if settings.discovery:
            inputs = discovery_inputs(device)
            if device.announced != inputs:
                device.announced = inputs
                config = json.dumps(discovery(device, topic, self._availability(device), settings.away_after))
                self._client.publish(config_topic(settings.prefix, mac_address), config, qos=1, retain=True)
        device.published = time.monotonic()
        last_seen = time.time() - (device.published - device.last)
        self._client.publish(topic, json.dumps(state(device, last_seen)), qos=1, retain=True)
        self.published += 1

    def _availability(self, device: DecodedDevice) -> list[str]:
        """Return the status topics of the gateways that hear the device, or else of this service."""
        template = self._settings.gateway_status
        if template is None:
            return [self._settings.status]
        return [fill_template(template, {"scanner_id": gateway}) for gateway in sorted(device.gateways)]
