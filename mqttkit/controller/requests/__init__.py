"""Requests from one controller to another, with answers."""
