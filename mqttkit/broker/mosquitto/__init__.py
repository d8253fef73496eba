"""Mosquitto's files: its configuration and its database."""
