"""A simulated network of controllers."""
