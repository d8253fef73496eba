"""Values of Bluetooth sensors: advertisements in, readings with quantities and units out."""

from mqttkit.decode.decoders import DecodeCounts, Decoders, warn_if_incomplete
from mqttkit.decode.reading import Reading, Value

__all__ = ["DecodeCounts", "Decoders", "Reading", "Value", "warn_if_incomplete"]
