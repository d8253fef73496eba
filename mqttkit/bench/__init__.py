"""mqttkit.bench."""
