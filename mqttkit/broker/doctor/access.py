"""Checks of who may connect, and of the addresses of the listeners. Each one tries it."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Iterator

from mqttkit.addresses import is_loopback
from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.acl_simulator import check_access
from mqttkit.broker.accounts.roles import OWN_USERS
from mqttkit.broker.doctor.examined_broker import ExaminedBroker, refusal
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.broker.exposure import IpAddress, exposed_listeners, is_public, local_addresses
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
    if all(endpoint.encrypted for endpoint in examined.endpoints):
        yield passed("every listener speaks TLS")
    for endpoint in examined.endpoints:
        if endpoint.encrypted:
            continue
        where = f"{endpoint.name} on port {endpoint.port}"
        bound = bound_addresses(endpoint.port)
        exposed = sorted(address for address in bound if not is_loopback(address))
        if exposed:
            option = "--websocket-tls" if endpoint.name == "WebSocket" else "--tls-port 8883"
            say = failed if is_public(_reachable(exposed)) else warned
            yield say(
                f"{where} has no TLS and is bound to {', '.join(exposed)}: passwords travel in clear text",
                f"mqttkit broker restart {option}{examined.name_option}",
            )
        elif bound:
            yield passed(f"{where} is bound to loopback only")
        else:
            yield not_checked(f"no listener is visible on port {endpoint.port}")


def _reachable(bound: Iterable[str]) -> Iterator[IpAddress]:
    """Yield the addresses that a listener is bound to; for 0.0.0.0 and :: those of this machine."""
    for text in bound:
        address = ipaddress.ip_address(text)
        yield from local_addresses() if address.is_unspecified else (address,)


def network(examined: ExaminedBroker) -> Iterator[Result]:
    """Name what other machines reach, and who may do what there: users, certificates, wide rights."""
    spec = examined.broker.spec
    exposed = exposed_listeners(spec)
    if not exposed:
        yield passed("only this machine reaches its listeners")
        return
    for listener in exposed:
        where = " and ".join(listener.urls()) or f"{listener.name} on {listener.listen}:{listener.port}"
        needs = "a certificate and a user" if listener.encrypted and spec.client_certificates else "a user"
        if spec.anonymous:
            fix = f"mqttkit broker restart --no-anonymous{examined.name_option}"
            yield failed(f"the network reaches {where} without a user", fix)
        else:
            yield passed(f"the network reaches {where}; clients need {needs}")
    users = sorted(set(examined.accounts.passwords.hashes) - set(OWN_USERS))
    if not users and not spec.anonymous:
        fix = f"mqttkit broker user add NAME --role device --generate{examined.name_option}"
        yield warned("clients elsewhere have no user but the operator, who may do everything", fix)
    for user in users:
        if check_access(examined.accounts.acl, Access.WRITE, f"mqttkit/{secrets.token_hex(8)}", user=user).allowed:
            fix = f"mqttkit broker acl list, then acl revoke{examined.name_option}"
            yield warned(f"user {user!r} may publish on every topic, from every machine", fix)


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
