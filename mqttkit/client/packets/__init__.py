"""Packets as values: properties, reason codes, names and payloads on the wire."""
