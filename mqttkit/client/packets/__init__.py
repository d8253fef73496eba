"""MQTT packets as bytes and values: what is received, what is sent, and what became of it. No socket here."""
