"""Several sinks at once: each output is a bridge with its own session, so a dead one never holds up the others."""
