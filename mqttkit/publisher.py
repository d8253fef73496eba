"""Advertisements to messages."""
