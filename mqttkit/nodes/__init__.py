"""Simulated sensor and gateway nodes, as real clients."""

from mqttkit.nodes.gateway import Aggregate, GatewayNode
from mqttkit.nodes.plan import Fault, Scenario, SensorFleet, SensorReading, plan
from mqttkit.nodes.runner import Runner, ScenarioTotals
from mqttkit.nodes.sensor import SensorNode
from mqttkit.nodes.waveforms import MODELS, Waveform

__all__ = [
    "MODELS",
    "Aggregate",
    "Fault",
    "GatewayNode",
    "Runner",
    "Scenario",
    "ScenarioTotals",
    "SensorFleet",
    "SensorNode",
    "SensorReading",
    "Waveform",
    "plan",
]
