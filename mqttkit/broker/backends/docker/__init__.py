"""Mosquitto in a container."""
