"""The MQTT client: thin over paho-mqtt."""
