"""Metrics of Sparkplug B: payloads whose names and types are in an earlier message of the same node."""
