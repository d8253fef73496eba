"""Keys, signatures, and the gate that checks each message."""
