"""YAML, environment and flags to frozen settings."""
