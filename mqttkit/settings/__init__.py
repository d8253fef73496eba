"""Settings as frozen objects that check themselves: a value that cannot work raises ConfigError. Pure."""

from __future__ import annotations

from mqttkit.settings.bridge import BridgeSettings, MemorySettings, OutputSettings, SinkSettings, SparkplugSettings
from mqttkit.settings.controller import ControllerSettings
from mqttkit.settings.decode import DecodeSettings
from mqttkit.settings.file import Settings
from mqttkit.settings.mqtt import (
    BrokerSettings,
    ClientSettings,
    LimitSettings,
    MqttSettings,
    PropertySettings,
    ReconnectSettings,
    TlsSettings,
)
from mqttkit.settings.scan import PublisherSettings, ScannerSettings

__all__ = [
    "BridgeSettings",
    "BrokerSettings",
    "ClientSettings",
    "ControllerSettings",
    "DecodeSettings",
    "LimitSettings",
    "MemorySettings",
    "MqttSettings",
    "OutputSettings",
    "PropertySettings",
    "PublisherSettings",
    "ReconnectSettings",
    "ScannerSettings",
    "Settings",
    "SinkSettings",
    "SparkplugSettings",
    "TlsSettings",
]
