"""mqttkit compared with other MQTT clients: `make bench-peers`."""
