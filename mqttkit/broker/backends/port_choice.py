"""Ports that mqttkit chooses itself: free when they are chosen, and chosen again if another program takes them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from mqttkit.broker.ports import free_port, is_free, require_free
from mqttkit.broker.profile import BrokerSpec
from mqttkit.errors import MqttkitError, PortTaken

log = logging.getLogger(__name__)

ATTEMPTS = 5
OPTIONS = {"port": "--port", "websocket_port": "--websocket-port", "tls_port": "--tls-port"}
"""Each port of a BrokerSpec and the option that sets it."""
StartResult = TypeVar("StartResult")


def start_on_free_ports(spec: BrokerSpec, start: Callable[[BrokerSpec], StartResult]) -> StartResult:
    """Choose ports and start; choose others if a port was taken before the broker could listen on it.

    `start` must undo a failed start before it raises. Raises `PortTaken` if a port that the user asked for is taken.
    """
    avoid: set[int] = set()
    for attempts_left in reversed(range(ATTEMPTS)):
        chosen = choose_ports(spec, avoid=avoid)
        try:
            return start(chosen)
        except MqttkitError as error:
            automatic = {int(getattr(chosen, name)) for name in chosen.automatic_ports}
            taken = isinstance(error, PortTaken) or not all(
                is_free(chosen.address_of(name), int(getattr(chosen, name))) for name in chosen.automatic_ports
            )
            if not taken or not attempts_left:
                raise
            avoid |= automatic
            log.info("a port was taken before the broker could listen on it; trying again: %s", error)
    raise AssertionError("the last attempt returns or raises")


def choose_ports(spec: BrokerSpec, *, avoid: Collection[int] = ()) -> BrokerSpec:
    """Return the spec with a free port for each one left to mqttkit.

    A port that was chosen earlier stays if it is still free. Raises `PortTaken` if a port that the user asked for
    is taken.
    """
    without_port = spec.plain and not spec.port
    automatic = dict.fromkeys(("port", *spec.automatic_ports) if without_port else spec.automatic_ports)
    ports = {name: getattr(spec, name) for name in OPTIONS}
    for name, option in OPTIONS.items():
        if name == "port" and not spec.plain:
            continue
        port, address = ports[name], spec.address_of(name)
        if name in automatic:
            others = {*avoid, *(other for key, other in ports.items() if key != name)}
            usable = port and port not in others and is_free(address, port)
            ports[name] = port if usable else free_port(address, avoid=others)
        elif port:
            require_free(address, port, option=option)
    return dataclasses.replace(spec, **ports, automatic_ports=tuple(automatic))
