"""What controllers send: envelopes, topics and reasons for refusal."""
