"""Controllers that coordinate over publish/subscribe without knowing each other's addresses."""

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.policies import Policy
from mqttkit.controller.requests.types import ControllerRequest, RequestRefused
from mqttkit.controller.roles import GlobalController, LocalController, RegionalController, Report
from mqttkit.controller.transports.in_process import MemoryBus

__all__ = [
    "ControllerRequest",
    "Envelope",
    "GlobalController",
    "LocalController",
    "MemoryBus",
    "Policy",
    "RegionalController",
    "Report",
    "RequestRefused",
]
