"""Where advertisements come from."""
