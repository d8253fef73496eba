"""Programs that answer with another client library; each runs in a separate environment."""
