"""All settings of one mqttkit.yaml. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from mqttkit.settings.bridge import BridgeSettings
from mqttkit.settings.controller import ControllerSettings
from mqttkit.settings.decode import DecodeSettings
from mqttkit.settings.mqtt import MqttSettings
from mqttkit.settings.rules import Checked
from mqttkit.settings.scan import PublisherSettings, ScannerSettings


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """One mqttkit.yaml."""

    mqtt: MqttSettings = field(default_factory=MqttSettings)
    scanner: ScannerSettings = field(default_factory=ScannerSettings)
    publisher: PublisherSettings = field(default_factory=PublisherSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    bridge: BridgeSettings = field(default_factory=BridgeSettings)
