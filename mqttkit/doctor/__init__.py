"""Examine any broker as a client, step by step."""
