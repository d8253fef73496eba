"""Turn YAML, environment and flags into frozen settings; imports yaml only to read a file."""

from mqttkit.config.load import Effective, load_settings
from mqttkit.config.located_values import given
from mqttkit.config.secret_files import read_secret
from mqttkit.config.sources import config_path, find_config, url_values

__all__ = ["Effective", "config_path", "find_config", "given", "load_settings", "read_secret", "url_values"]
