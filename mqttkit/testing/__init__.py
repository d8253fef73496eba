"""Test code that uses MQTT: brokers, clients and a recorder as pytest fixtures."""
