"""Simulated sensor and gateway nodes, as real clients."""
