"""Checks of who gets in, and where the broker listens: each one tries it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from mqttkit.broker.doctor.examined_broker import Patient, refusal
from mqttkit.broker.doctor.findings import Outcome, failed, not_checked, passed
from mqttkit.broker.ports import bound_addresses, port_owner
from mqttkit.broker.probe import Login, unproven_tls, websocket_answer
from mqttkit.errors import BrokerUnreachable
from mqttkit.settings import is_loopback


def answers(patient: Patient) -> Iterator[Outcome]:
    """Log in as the operator on every listener; where the broker is down, say who holds its ports."""
    if not patient.up:
        yield failed("it does not run", f"mqttkit broker up{patient.spec_name}")
        for door in patient.doors:
            if owner := port_owner(door.port):
                yield failed(f"its port {door.port} is held by {owner}", f"stop {owner}, or up with another --port")
        return
    for door in patient.doors:
        where = f"{door.name} on port {door.port}"
        try:
            reason = refusal(door, patient.profile.username, patient.profile.password)
        except BrokerUnreachable as error:
            yield failed(f"{where}: {error.cause}", patient.restart)
            continue
        if reason is None:
            yield passed(f"{where} lets the operator in")
        elif door.encrypted and patient.broker.spec.client_certificates:
            yield not_checked(f"{where} wants a client certificate, which the operator has not")
        else:
            yield failed(f"{where} refuses the operator: {reason}", patient.restart)


def anonymous(patient: Patient) -> Iterator[Outcome]:
    """Connect without a user on every listener."""
    mend = f"mqttkit broker restart --no-anonymous{patient.spec_name}"
    yield from _refused(patient, None, None, "clients without a user", mend)


def strangers(patient: Patient) -> Iterator[Outcome]:
    """Connect on every listener with credentials that were made up a moment ago."""
    made_up = (secrets.token_hex(8), secrets.token_hex(8))
    yield from _refused(patient, *made_up, "made-up credentials", patient.restart)


def _refused(patient: Patient, username: str | None, password: str | None, who: str, mend: str) -> Iterator[Outcome]:
    for door in patient.doors:
        where = f"{door.name} on port {door.port}"
        try:
            reason = refusal(door, username, password)
        except BrokerUnreachable as error:
            yield not_checked(f"{where}: {error.cause}")
            continue
        if reason is None:
            yield failed(f"{where} lets {who} in", mend)
        else:
            yield passed(f"{where} refuses {who}: {reason}")


def plain_text(patient: Patient) -> Iterator[Outcome]:
    """Look where the listeners without TLS are bound."""
    for door in patient.doors:
        if door.encrypted:
            continue
        where = f"{door.name} on port {door.port}"
        bound = bound_addresses(door.port)
        wide = sorted(address for address in bound if not is_loopback(address))
        if wide:
            yield failed(
                f"{where} is plain-text and bound to {', '.join(wide)}",
                f"mqttkit broker restart --listen 127.0.0.1{patient.spec_name}, or offer --tls-port only",
            )
        elif bound:
            yield passed(f"{where} is bound to loopback only")
        else:
            yield not_checked(f"nothing is seen to listen on port {door.port}")


def addresses(patient: Patient) -> Iterator[Outcome]:
    """Compare where each port is bound, and by whom, with what was asked for."""
    wanted = patient.broker.spec.listen
    for door in patient.doors:
        bound = bound_addresses(door.port)
        named = ", ".join(sorted(bound))
        owner = port_owner(door.port)
        if not bound:
            yield failed(f"{door.name}: nothing listens on port {door.port}", patient.restart)
        elif is_loopback(wanted) and not all(is_loopback(address) for address in bound):
            yield failed(f"{door.name} on port {door.port} is bound to {named}, not to {wanted}", patient.restart)
        elif owner and not _is_ours(patient, owner):
            yield failed(f"port {door.port} is held by {owner}, which is not the broker", f"stop {owner}")
        else:
            yield passed(f"{door.name} on port {door.port}: {named}, held by {owner or 'a process not seen'}")


def websocket(patient: Patient) -> Iterator[Outcome]:
    """Speak MQTT over WebSockets on the WebSocket port."""
    port = patient.door("WebSocket").port
    try:
        tls = unproven_tls() if patient.profile.websocket_tls else None
        line = websocket_answer(Login(host=patient.profile.host, port=port, tls=tls))
    except BrokerUnreachable as error:
        yield failed(f"port {port} is published, and no WebSocket answers: {error.cause}", patient.restart)
        return
    if " 101 " in f"{line} ":
        yield passed(f"port {port} takes MQTT over WebSockets")
    else:
        yield failed(f"port {port} declines MQTT over WebSockets: {line}", patient.restart)


def _is_ours(patient: Patient, owner: str) -> bool:
    if patient.broker.backend == "docker":
        return owner.startswith("docker-proxy")
    return f"(pid {patient.running.pid})" in owner
