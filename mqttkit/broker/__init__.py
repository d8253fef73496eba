"""The life of a broker that mqttkit runs: one protocol over three backends."""

from mqttkit.broker.lifecycle import (
    BACKENDS,
    existing_broker,
    open_broker,
    restart_broker,
    start_broker,
    stop_broker,
    temporary_broker,
    usable_backends,
)
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile
from mqttkit.broker.protocol import LACKS, Broker, Feature, Resources, Running, UpResult, require

__all__ = [
    "BACKENDS",
    "LACKS",
    "Broker",
    "BrokerPaths",
    "BrokerSpec",
    "Feature",
    "Profile",
    "Resources",
    "Running",
    "UpResult",
    "existing_broker",
    "open_broker",
    "require",
    "restart_broker",
    "start_broker",
    "stop_broker",
    "temporary_broker",
    "usable_backends",
]
