"""Controllers that coordinate over publish/subscribe without knowing each other's addresses."""

from mqttkit.controller.envelope import Envelope
from mqttkit.controller.memory_transport import MemoryBus
from mqttkit.controller.policies import Policy
from mqttkit.controller.roles import GlobalController, LocalController, RegionalController, Report

__all__ = [
    "Envelope",
    "GlobalController",
    "LocalController",
    "MemoryBus",
    "Policy",
    "RegionalController",
    "Report",
]
