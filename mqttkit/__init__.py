"""mqttkit: from nothing to a working, secured, observable MQTT pipeline."""

__version__ = "0.1.0"
