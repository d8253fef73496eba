"""Ways to run a broker: Docker, a native mosquitto, and an embedded broker."""
