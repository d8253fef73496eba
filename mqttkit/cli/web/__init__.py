"""`mqttkit web`."""
