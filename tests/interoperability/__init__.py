"""mqttkit against other brokers, other clients, and mosquitto's own tests. Run by make targets, not by pytest."""
