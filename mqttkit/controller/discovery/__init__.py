"""Finding devices: the sources of local controllers, what has changed, and the inventory of regional ones."""
