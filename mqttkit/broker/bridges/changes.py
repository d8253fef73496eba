"""Add and remove bridges of a broker: its own connections to other brokers."""

from __future__ import annotations

import secrets

from mqttkit.addresses import is_loopback
from mqttkit.broker.bridges.trial import BridgeTrial, try_bridge
from mqttkit.broker.lifecycle import restart_broker, start_broker
from mqttkit.broker.mosquitto.bridge_connections import BridgeConnection, load_bridges, save_bridges
from mqttkit.broker.profile import locked
from mqttkit.broker.protocol import Broker, Feature, Running, require
from mqttkit.errors import MqttkitError, UsageError


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
    before = broker.running()
    try:
        _store(broker, bridge)
        if before is None:
            return []
        restart_broker(broker.spec)
        return try_bridge(broker, bridge) if test else []
    except (MqttkitError, KeyboardInterrupt):
        if _forget(broker, bridge):
            _run_again(broker, before)
        raise


def remove_bridge(broker: Broker, name: str) -> None:
    """Remove a bridge and restart the broker if it runs; if that fails, the bridge stays. Raises UsageError if there is
    no such bridge.
    """
    bridge = find_bridge(broker, name)
    before = broker.running()
    try:
        _forget(broker, bridge)
        if before is not None:
            restart_broker(broker.spec)
    except (MqttkitError, KeyboardInterrupt):
        _store(broker, bridge)
        _run_again(broker, before)
        raise


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
        if bridge in bridges:
            return
        if any(one.name == bridge.name for one in bridges):
            option = "" if broker.spec.name == "default" else f" --name {broker.spec.name}"
            raise UsageError(
                f"bridge {bridge.name!r} already exists",
                hint=f"Test it with: mqttkit broker bridge test {bridge.name}{option}, "
                f"or remove it with: mqttkit broker bridge remove {bridge.name}{option}",
            )
        save_bridges(broker.paths, [*bridges, bridge])


def _forget(broker: Broker, bridge: BridgeConnection) -> bool:
    """Remove a bridge from the stored ones, and its certificates; return whether it was stored.

    Other commands may have added bridges meanwhile; these stay.
    """
    with locked(broker.paths):
        bridges = load_bridges(broker.paths)
        if bridge not in bridges:
            return False
        save_bridges(broker.paths, [one for one in bridges if one != bridge])
        for name, _ in bridge.files.values():
            broker.remove_file(name)
        return True


def _run_again(broker: Broker, before: Running | None) -> None:
    """Let a broker that ran before run with the stored bridges, after a change that failed or was interrupted."""
    if before is None:
        return
    now = broker.running()
    if now is None or now.pid == before.pid:  # it still runs with what it read at its start
        start_broker(broker.spec)
    else:
        restart_broker(broker.spec)


def new_client_id(broker: Broker, name: str) -> str:
    """Return a client identifier for a new bridge, which no other broker uses."""
    return f"{broker.spec.name}-{name}-{secrets.token_hex(4)}"
