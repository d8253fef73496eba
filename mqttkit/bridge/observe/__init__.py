"""Report the bridge's state: health endpoints, Prometheus, service manager."""
