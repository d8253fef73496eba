"""`mqttkit scan` and `mqttkit publish-scan`."""
