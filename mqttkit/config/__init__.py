"""YAML, environment and flags to frozen settings; the only importer of yaml, and only where a file exists."""

from mqttkit.config.load import Effective, load_settings
from mqttkit.config.sources import config_path, find_config

__all__ = ["Effective", "config_path", "find_config", "load_settings"]
