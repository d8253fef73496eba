"""The MQTT client: a thin layer over paho-mqtt, whose `loop_start` thread does the network.

paho is imported here first, so that it loads OpenSSL only for a connection that uses TLS.
"""

from mqttkit.deferred_imports import deferred_imports

with deferred_imports():
    from mqttkit.client.client import MqttClient
    from mqttkit.client.connection_setup import checked_settings
    from mqttkit.client.sending.block import BlockReceipt
    from mqttkit.client.sending.receipt import Receipt
    from mqttkit.client.state import ConnectionState
    from mqttkit.client.stats import ClientStats

__all__ = ["BlockReceipt", "ClientStats", "ConnectionState", "MqttClient", "Receipt", "checked_settings"]
