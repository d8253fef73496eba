"""Users, passwords and access rights of a broker."""
