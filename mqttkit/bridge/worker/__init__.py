"""The worker of a Redis stream: from entries to the next sink, trimmed behind the slowest reader."""
