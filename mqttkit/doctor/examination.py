"""Examine any broker as a client: step by step from its name to a round trip, each step tried.

The first step that fails is named with its likely cause; those that need it are not checked.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from mqttkit.addresses import is_loopback
from mqttkit.broker.doctor.examined_broker import Endpoint, refusal
from mqttkit.broker.doctor.findings import (
    Check,
    Finding,
    Result,
    Verdict,
    failed,
    not_checked,
    passed,
    run_checks,
    warned,
)
from mqttkit.broker.probe import ask, websocket_answer
from mqttkit.client.failures import unreachable
from mqttkit.doctor import traffic
from mqttkit.doctor.visit import SECONDS, Visit
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, MqttkitError
from mqttkit.settings import MqttSettings

GATES = ("dns", "tcp", "tls", "websocket", "connack", "suback", "publish", "round-trip")
"""Steps without which the later ones mean nothing."""
CAPABILITIES = (
    (0x24, 2, "maximum QoS"),
    (0x25, 1, "retained messages"),
    (0x28, 1, "wildcard subscriptions"),
    (0x29, 1, "subscription identifiers"),
    (0x2A, 1, "shared subscriptions"),
)
"""Property identifier, its default, and what it tells (MQTT 5, 3.2.2.3); less than the default is a lack."""
LIMITS = (
    (0x21, "receive maximum"),
    (0x27, "maximum packet size"),
    (0x22, "topic alias maximum"),
    (0x13, "keep alive set by the broker"),
    (0x11, "session expiry set by the broker"),
)


def examine(settings: MqttSettings, *, topic: str | None = None) -> Iterator[Finding]:
    """Yield what each step finds; `topic` is the prefix of the topics used, a random one below mqttkit/doctor else."""
    with ExitStack() as stack:
        visit = Visit(settings, topic or f"mqttkit/doctor/{secrets.token_hex(6)}", stack)
        for check in STEPS:
            for finding in run_checks([check], visit):
                if finding.verdict is Verdict.FAILED and check.name in GATES and not visit.broken:
                    visit.broken = f"{check.name} failed"
                yield finding


def dns(visit: Visit) -> Iterator[Result]:
    """Look the host's addresses up."""
    try:
        found = socket.getaddrinfo(visit.host, visit.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        yield failed(f"no address for host {visit.host!r}: {error}", "check the name, and `getent hosts` for it")
        return
    visit.addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield passed(f"{visit.host} is {', '.join(visit.addresses)}")


def tcp(visit: Visit) -> Iterator[Result]:
    """Connect to each address."""
    troubles = []
    for address in visit.addresses:
        begin = time.monotonic()
        try:
            socket.create_connection((address, visit.port), timeout=SECONDS).close()
        except OSError as error:
            failure = unreachable((address, visit.port), "tcp", error)
            troubles.append(Result(Verdict.FAILED, failure.message, failure.hint or _cause(error, visit)))
        else:
            yield passed(f"{address} port {visit.port} accepts in {1000 * (time.monotonic() - begin):.0f} ms")
    every = len(troubles) == len(visit.addresses)
    for trouble in troubles:
        yield trouble if every else warned(trouble.detail, trouble.fix)


def tls(visit: Visit) -> Iterator[Result]:
    """Shake hands, and verify the certificate as every command does."""
    if visit.context is None:
        if is_loopback(visit.host) or all(is_loopback(address) for address in visit.addresses):
            yield not_checked("no TLS is asked for, on loopback")
        else:
            yield warned("no TLS: what is sent, the password included, can be read on the way", "--tls, or mqtts://")
        return
    try:
        with visit.shake_hands() as connection:
            bits = connection.cipher()
            yield passed(f"{connection.version()}, {bits[0] if bits else '?'}, certificate {_certificate(connection)}")
    except (ssl.SSLError, OSError) as error:
        failure = unreachable((visit.host, visit.port), "tls", error)
        yield failed(failure.cause, failure.hint)


def websocket(visit: Visit) -> Iterator[Result]:
    """Ask for MQTT over WebSockets."""
    try:
        line = websocket_answer(visit.login(), visit.settings.broker.websocket_path)
    except BrokerUnreachable as error:
        yield failed(error.cause, "is it a WebSocket port? Without --ws it is plain MQTT")
        return
    if " 101 " in f"{line} ":
        yield passed(line)
    else:
        yield failed(f"the upgrade is declined: {line}", "check the path of the URL")


def connack(visit: Visit) -> Iterator[Result]:
    """Log in."""
    client = visit.client()
    try:
        client.connect(timeout=2 * SECONDS)
    except ConnectionRefused as error:
        yield failed(f"refused: {error.reason}", error.hint)
        return
    except BrokerUnreachable as error:
        yield failed(error.cause, _why_no_connack(visit) or error.hint)
        return
    visit.main = client
    who = f"user {visit.settings.broker.username!r}" if visit.settings.broker.username else "no user"
    yield passed(f"let in as {who}, MQTT {'5' if client.protocol_version == 5 else '3.1.1'}")
    if client.protocol_version != 5:
        yield warned("MQTT 3.1.1: the broker cannot say that it denies a publish", "use a broker that speaks MQTT 5")


def strangers(visit: Visit) -> Iterator[Result]:
    """Try made-up credentials, and none."""
    endpoint = Endpoint("broker", visit.only, visit.settings.client.version)
    made_up = (secrets.token_hex(8), secrets.token_hex(8))
    for who, login in (("made-up credentials", made_up), ("no user", (None, None))):
        reason = refusal(endpoint, *login)
        if reason is None:
            yield warned(f"the broker lets {who} in: anyone may connect", "demand users: allow_anonymous false")
        else:
            yield passed(f"{who}: refused, {reason}")


def capabilities(visit: Visit) -> Iterator[Result]:
    """Read what an MQTT 5 broker says of itself in its CONNACK."""
    if visit.client_of_main().protocol_version != 5:
        yield not_checked("only MQTT 5 brokers say what they can")
        return
    if visit.only.transport == "websockets":
        yield not_checked("not read over WebSockets")
        return
    answer = ask(visit.login(version="5"))
    if not answer.accepted:
        yield not_checked(f"a second login was refused: {answer.reason}")
        return
    visit.told = dict(answer.properties)
    for identifier, full, what in CAPABILITIES:
        value = answer.properties.get(identifier, full)
        if value < full:
            yield warned(f"{what}: {value}", "what needs it will not work with this broker")
    told = [f"{what} {answer.properties[one]}" for one, what in LIMITS if one in answer.properties]
    yield passed(f"limits told: {', '.join(told) or 'none'}")


def _certificate(connection: ssl.SSLSocket) -> str:
    """Return a certificate's subject and last day; nothing is told of one that was not verified."""
    found: Any = connection.getpeercert()
    if not found:
        return "not verified"
    names = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return f"of {', '.join(map(str, names)) or '?'} until {found.get('notAfter')}"


def _cause(error: OSError, visit: Visit) -> str:
    """Return the likely cause of a TCP connection that failed."""
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens on port {visit.port}: is the broker up, and is this its port?"
    if isinstance(error, TimeoutError):
        return "no answer: a firewall drops it, or the machine is off"
    return "is there a route to it? `ip route get ADDRESS` tells"


def _why_no_connack(visit: Visit) -> str:
    """Return the likely cause of a connection that ends before its CONNACK, where a look at the port tells it."""
    if visit.context is None and visit.speaks_tls():
        return "the port speaks TLS: --tls, or mqtts://"
    for version in ("5", "311"):
        try:
            answer = ask(visit.login(version=version))
        except MqttkitError:
            continue
        return f"with MQTT {version} it answers: {answer.reason}; choose it with -V"
    return ""


STEPS: tuple[Check[Visit], ...] = (
    Check("dns", "the name has an address", dns),
    Check("tcp", "the port accepts connections", tcp, (Visit.obstacle,)),
    Check("tls", "the certificate is trusted", tls, (Visit.obstacle,)),
    Check("websocket", "MQTT over WebSockets is spoken", websocket, (Visit.obstacle, Visit.no_websocket)),
    Check("connack", "the broker lets us in", connack, (Visit.obstacle,)),
    Check("strangers", "the broker lets nobody else in", strangers, (Visit.obstacle,)),
    Check("capabilities", "what the broker can do", capabilities, (Visit.obstacle,)),
    Check("suback", "we may subscribe", traffic.suback, (Visit.obstacle,)),
    Check("publish", "we may publish", traffic.publish, (Visit.obstacle,)),
    Check("round-trip", "what we publish comes back whole", traffic.round_trip, (Visit.obstacle,)),
    Check("retained", "a retained message is kept and cleared", traffic.retained, (Visit.obstacle, Visit.no_retained)),
    Check("shared", "a shared subscription delivers", traffic.shared, (Visit.obstacle,)),
    Check("acl", "topics of others are closed to us", traffic.wide, (Visit.obstacle,)),
)
"""Every step, in order."""
