"""The MQTT client: thin over paho-mqtt, which runs its network loop in a thread of its own."""

from mqttkit.client.client import MqttClient
from mqttkit.client.connector import ConnectionState
from mqttkit.client.preparing import checked_settings
from mqttkit.client.stats import ClientStats
from mqttkit.wire import Receipt

__all__ = ["ClientStats", "ConnectionState", "MqttClient", "Receipt", "checked_settings"]
