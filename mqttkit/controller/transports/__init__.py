"""Ways for messages to travel: MQTT, HTTP and in-process."""
