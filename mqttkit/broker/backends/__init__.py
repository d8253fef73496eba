"""The ways to run a broker: Docker, the installed mosquitto, and an embedded broker."""
