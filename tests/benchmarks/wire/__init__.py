"""`make bench-wire`: the cost of a message in the client, measured against bare TCP peers instead of a broker."""
