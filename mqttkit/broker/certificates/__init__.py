"""The broker's certificate authority, and the server and client certificates that it signs."""
