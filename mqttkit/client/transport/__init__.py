"""What carries the bytes: TCP sockets, TLS and WebSockets."""
