"""Mosquitto's files: configuration, database, and how it reloads them."""
