"""mqttkit.broker."""
