"""Checks of who may connect, and of the addresses of the listeners. Each one tries it."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator

from mqttkit.addresses import is_loopback
from mqttkit.broker.doctor.examined_broker import ExaminedBroker, refusal
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.broker.ports import bound_addresses, port_owner
from mqttkit.broker.probe import Login, unverified_tls, websocket_answer
from mqttkit.errors import BrokerUnreachable


def answers(examined: ExaminedBroker) -> Iterator[Result]:
    """Log in as the operator on every listener; if the broker is down, name the processes that hold its ports."""
    if not examined.up:
        yield failed("it is not running", f"mqttkit broker up{examined.name_option}")
        for endpoint in examined.endpoints:
            if owner := port_owner(endpoint.port):
                yield failed(f"its port {endpoint.port} is held by {owner}", f"stop {owner}, or choose another --port")
        return
    for endpoint in examined.endpoints:
        where = f"{endpoint.name} on port {endpoint.port}"
        try:
            reason = refusal(endpoint, examined.profile.username, examined.profile.password)
        except BrokerUnreachable as error:
            yield failed(f"{where}: {error.cause}", examined.restart)
            continue
        if reason is None:
            yield passed(f"{where} accepts the operator")
        elif endpoint.encrypted and examined.broker.spec.client_certificates:
            yield not_checked(f"{where} requires a client certificate, and the operator has none")
        else:
            yield failed(f"{where} refuses the operator: {reason}", examined.restart)


def anonymous(examined: ExaminedBroker) -> Iterator[Result]:
    """Connect without a user on every listener."""
    fix = f"mqttkit broker restart --no-anonymous{examined.name_option}"
    yield from _refused(examined, None, None, "clients without a user", fix)


def strangers(examined: ExaminedBroker) -> Iterator[Result]:
    """Connect on every listener with random credentials."""
    made_up = (secrets.token_hex(8), secrets.token_hex(8))
    yield from _refused(examined, *made_up, "random credentials", examined.restart)


def _refused(
    examined: ExaminedBroker, username: str | None, password: str | None, who: str, fix: str
) -> Iterator[Result]:
    for endpoint in examined.endpoints:
        where = f"{endpoint.name} on port {endpoint.port}"
        try:
            reason = refusal(endpoint, username, password)
        except BrokerUnreachable as error:
            yield not_checked(f"{where}: {error.cause}")
            continue
        if reason is None:
            yield failed(f"{where} accepts {who}", fix)
        else:
            yield passed(f"{where} refuses {who}: {reason}")


def plain_text(examined: ExaminedBroker) -> Iterator[Result]:
    """Look up the addresses of the listeners without TLS."""
    for endpoint in examined.endpoints:
        if endpoint.encrypted:
            continue
        where = f"{endpoint.name} on port {endpoint.port}"
        bound = bound_addresses(endpoint.port)
        exposed = sorted(address for address in bound if not is_loopback(address))
        if exposed:
            option = "--websocket-tls" if endpoint.name == "WebSocket" else "--tls-port 8883"
            say = warned if all(_is_local(address) for address in exposed) else failed
            yield say(
                f"{where} has no TLS and is bound to {', '.join(exposed)}: passwords travel in clear text",
                f"mqttkit broker restart {option}{examined.name_option}",
            )
        elif bound:
            yield passed(f"{where} is bound to loopback only")
        else:
            yield not_checked(f"no listener is visible on port {endpoint.port}")


def _is_local(address: str) -> bool:
    """Return whether this is one address of a private network."""
    found = ipaddress.ip_address(address)
    return found.is_private and not found.is_unspecified


def addresses(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare address and process of each port with the settings."""
    spec = examined.broker.spec
    for endpoint in examined.endpoints:
        wanted = spec.plain_listen if endpoint.name.startswith("MQTT") else spec.listen
        bound = bound_addresses(endpoint.port)
        named = ", ".join(sorted(bound))
        owner = port_owner(endpoint.port)
        if not bound:
            yield failed(f"{endpoint.name}: nothing listens on port {endpoint.port}", examined.restart)
        elif is_loopback(wanted) and not all(is_loopback(address) for address in bound):
            yield failed(
                f"{endpoint.name} on port {endpoint.port} is bound to {named}, not to {wanted}", examined.restart
            )
        elif owner and not _is_ours(examined, owner):
            yield failed(f"port {endpoint.port} is held by {owner}, which is not the broker", f"stop {owner}")
        else:
            holder = owner or "a process that this user cannot see"
            yield passed(f"{endpoint.name} on port {endpoint.port}: {named}, held by {holder}")


def websocket(examined: ExaminedBroker) -> Iterator[Result]:
    """Speak MQTT over WebSockets on the WebSocket port."""
    port = examined.endpoint("WebSocket").port
    try:
        tls = unverified_tls() if examined.profile.websocket_tls else None
        line = websocket_answer(Login(host=examined.endpoint("WebSocket").settings.host, port=port, tls=tls))
    except BrokerUnreachable as error:
        yield failed(f"port {port} is published, but no WebSocket answers: {error.cause}", examined.restart)
        return
    if " 101 " in f"{line} ":
        yield passed(f"port {port} accepts MQTT over WebSockets")
    else:
        yield failed(f"port {port} declines MQTT over WebSockets: {line}", examined.restart)


def _is_ours(examined: ExaminedBroker, owner: str) -> bool:
    if examined.broker.backend == "docker":
        return owner.startswith("docker-proxy")
    return f"(pid {examined.running.pid})" in owner
