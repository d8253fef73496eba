"""How the bridge reports its state: health, Prometheus, service manager."""
