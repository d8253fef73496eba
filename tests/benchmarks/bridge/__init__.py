"""The figures of the bridge: `make bench-bridge`."""
