"""A TCP proxy between any client and any broker that understands packets and makes faults on purpose."""
