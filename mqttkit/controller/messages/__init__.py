"""Messages between controllers: envelopes, topics, and the reasons to refuse a message."""
