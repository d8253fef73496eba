"""What a run found: its result, the conditions that judge it, and a plot of it."""
