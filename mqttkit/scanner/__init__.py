"""Where advertisements come from: sources, parsing and filters."""

from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.sources import SOURCES, Source, open_source

__all__ = ["SOURCES", "Advertisement", "Source", "open_source"]
