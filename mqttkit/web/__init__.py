"""A live view of a broker in the browser: the server behind `mqttkit web`."""
