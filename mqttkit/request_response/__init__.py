"""Request and response over publish/subscribe (MQTT 5, 4.10)."""
