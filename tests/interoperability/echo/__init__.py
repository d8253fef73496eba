"""Programs that answer with another client library; each runs in an environment of its own."""
