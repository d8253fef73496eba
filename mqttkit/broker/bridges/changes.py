"""Add and remove bridges of a broker: its own connections to other brokers."""

from __future__ import annotations

import secrets
import ssl
from pathlib import Path

from mqttkit.addresses import is_loopback
from mqttkit.broker.bridges.trial import BridgeTrial, try_bridge
from mqttkit.broker.lifecycle import restart_broker, start_broker
from mqttkit.broker.mosquitto.bridge_connections import BridgeConnection, load_bridges, save_bridges
from mqttkit.broker.profile import locked
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import MqttkitError, UsageError, reason_of


def add_bridge(broker: Broker, bridge: BridgeConnection, *, test: bool = True) -> list[BridgeTrial]:
    """Add a bridge and restart the broker; with `test`, require that it connects and send a canary each way.

    If that fails or is interrupted, the bridge is removed again. A broker that is down only stores the bridge. Raises
    UsageError, LifecycleError.
    """
    require(broker, Feature.ACL, "a bridge")
    if broker.backend == "docker" and is_loopback(bridge.host):
        raise UsageError(
            f"{bridge.host} is the container itself", hint="Use an address of this machine, or a name in --network"
        )
    runs = broker.running() is not None
    _store(broker, bridge)
    if not runs:
        return []
    try:
        restart_broker(broker.spec)
    except (MqttkitError, KeyboardInterrupt):
        _forget(broker, bridge)
        start_broker(broker.spec)
        raise
    try:
        return try_bridge(broker, bridge) if test else []
    except (MqttkitError, KeyboardInterrupt):
        _forget(broker, bridge)
        restart_broker(broker.spec)
        raise


def remove_bridge(broker: Broker, name: str) -> bool:
    """Remove a bridge and restart the broker; return whether it runs. Raises UsageError if there is no such bridge."""
    bridge = find_bridge(broker, name)
    runs = broker.running() is not None
    _forget(broker, bridge)
    if not runs:
        return False
    try:
        restart_broker(broker.spec)
    except (MqttkitError, KeyboardInterrupt):
        _store(broker, bridge)
        start_broker(broker.spec)
        raise
    return True


def find_bridge(broker: Broker, name: str) -> BridgeConnection:
    """Return the bridge of this name; raise UsageError if there is none."""
    bridges = {bridge.name: bridge for bridge in load_bridges(broker.paths)}
    if name not in bridges:
        raise UsageError(f"no bridge has the name {name!r}", hint=f"There are: {', '.join(bridges) or 'none'}")
    return bridges[name]


def _store(broker: Broker, bridge: BridgeConnection) -> None:
    """Add a bridge to the stored ones; raise UsageError if its name is taken."""
    with locked(broker.paths):
        bridges = load_bridges(broker.paths)
        if any(one.name == bridge.name for one in bridges):
            option = "" if broker.spec.name == "default" else f" --name {broker.spec.name}"
            raise UsageError(
                f"bridge {bridge.name!r} already exists",
                hint=f"Test it with: mqttkit broker bridge test {bridge.name}{option}, "
                f"or remove it with: mqttkit broker bridge remove {bridge.name}{option}",
            )
        save_bridges(broker.paths, [*bridges, bridge])


def _forget(broker: Broker, bridge: BridgeConnection) -> None:
    """Remove a bridge from the stored ones, and its certificates; other bridges may have been added meanwhile."""
    with locked(broker.paths):
        save_bridges(broker.paths, [one for one in load_bridges(broker.paths) if one.name != bridge.name])
        broker.remove_file(bridge.trust_file)


def new_client_id(broker: Broker, name: str) -> str:
    """Return a client identifier for a new bridge, which no other broker uses."""
    return f"{broker.spec.name}-{name}-{secrets.token_hex(4)}"


def trusted_certificates(ca_file: str | None) -> str:
    """Return the PEM certificates of a file, or of the system's authorities; raise UsageError."""
    place = ca_file or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    try:
        ssl.create_default_context(cafile=place)
        return Path(place).read_text()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use the certificates in {place}: {reason_of(error)}") from error
