"""Messages to an iterator."""
