"""Simulated sensor and gateway nodes, as real clients."""

from mqttkit.nodes.gateway import Aggregate, GatewayNode
from mqttkit.nodes.plan import Fault, Fleet, Reading, Scenario, plan
from mqttkit.nodes.runner import Runner, ScenarioTotals
from mqttkit.nodes.sensor import SensorNode
from mqttkit.nodes.waveforms import MODELS, Waveform

__all__ = [
    "MODELS",
    "Aggregate",
    "Fault",
    "Fleet",
    "GatewayNode",
    "Reading",
    "Runner",
    "Scenario",
    "SensorNode",
    "ScenarioTotals",
    "Waveform",
    "plan",
]
