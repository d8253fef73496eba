"""Bridges that mosquitto itself makes to other brokers: add, test, remove."""
