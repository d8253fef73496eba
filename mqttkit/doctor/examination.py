"""Examine any broker as a client, step by step from its host name to a round trip.

The first step that fails is named with its likely cause; steps that need it are not checked.
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
"""Steps that every later step needs."""
CAPABILITIES = (
    (0x24, 2, "maximum QoS"),
    (0x25, 1, "retained messages"),
    (0x28, 1, "wildcard subscriptions"),
    (0x29, 1, "subscription identifiers"),
    (0x2A, 1, "shared subscriptions"),
)
"""Property identifier, default and meaning (MQTT 5, 3.2.2.3); a lower value is a lack."""
LIMITS = (
    (0x21, "receive maximum"),
    (0x27, "maximum packet size"),
    (0x22, "topic alias maximum"),
    (0x13, "keep alive set by the broker"),
    (0x11, "session expiry set by the broker"),
)


def examine(settings: MqttSettings, *, topic: str | None = None) -> Iterator[Finding]:
    """Yield the findings of each step; `topic` is the prefix of its topics, by default random below mqttkit/doctor."""
    with ExitStack() as stack:
        visit = Visit(settings, topic or f"mqttkit/doctor/{secrets.token_hex(6)}", stack)
        for check in STEPS:
            for finding in run_checks([check], visit):
                if finding.verdict is Verdict.FAILED and check.name in GATES and not visit.broken:
                    visit.broken = f"{check.name} failed"
                yield finding


def dns(visit: Visit) -> Iterator[Result]:
    """Look up the addresses of the host."""
    try:
        found = socket.getaddrinfo(visit.host, visit.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        yield failed(f"no address for host {visit.host!r}: {error}", "check the name with: getent hosts NAME")
        return
    visit.addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield passed(f"{visit.host} is {', '.join(visit.addresses)}")


def tcp(visit: Visit) -> Iterator[Result]:
    """Connect to each address."""
    failures = []
    for address in visit.addresses:
        begin = time.monotonic()
        try:
            socket.create_connection((address, visit.port), timeout=SECONDS).close()
        except OSError as error:
            failure = unreachable((address, visit.port), "tcp", error)
            failures.append(Result(Verdict.FAILED, failure.message, failure.hint or _cause(error, visit)))
        else:
            yield passed(f"{address} port {visit.port} accepts in {1000 * (time.monotonic() - begin):.0f} ms")
    every = len(failures) == len(visit.addresses)
    for result in failures:
        yield result if every else warned(result.detail, result.fix)


def tls(visit: Visit) -> Iterator[Result]:
    """Shake hands, and verify the certificate as every command does."""
    if visit.context is None:
        if is_loopback(visit.host) or all(is_loopback(address) for address in visit.addresses):
            yield not_checked("the settings do not use TLS, which is fine on loopback")
        else:
            yield warned(
                "no TLS: others on the network can read everything, including the password", "--tls, or mqtts://"
            )
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
        yield failed(error.cause, "is it a WebSocket port? Plain MQTT works without --ws")
        return
    if " 101 " in f"{line} ":
        yield passed(line)
    else:
        yield failed(f"the broker declines the upgrade: {line}", "check the path of the URL")


def connack(visit: Visit) -> Iterator[Result]:
    """Log in with the credentials of the settings."""
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
    yield passed(f"logged in as {who}, MQTT {'5' if client.protocol_version == 5 else '3.1.1'}")
    if client.protocol_version != 5:
        yield warned("MQTT 3.1.1: the broker cannot report a denied publish", "use a broker that speaks MQTT 5")


def strangers(visit: Visit) -> Iterator[Result]:
    """Try random credentials, and none."""
    endpoint = Endpoint("broker", visit.only, visit.settings.client.version)
    made_up = (secrets.token_hex(8), secrets.token_hex(8))
    for who, login in (("random credentials", made_up), ("no user", (None, None))):
        reason = refusal(endpoint, *login)
        if reason is None:
            yield warned(f"the broker accepts {who}: anyone may connect", "require users: allow_anonymous false")
        else:
            yield passed(f"{who}: refused, {reason}")


def capabilities(visit: Visit) -> Iterator[Result]:
    """Read the capabilities that an MQTT 5 broker reports in its CONNACK."""
    if visit.main_client().protocol_version != 5:
        yield not_checked("only MQTT 5 brokers report their capabilities")
        return
    if visit.only.transport == "websockets":
        yield not_checked("this step does not support WebSockets")
        return
    answer = ask(visit.login(version="5"))
    if not answer.accepted:
        yield not_checked(f"a second login was refused: {answer.reason}")
        return
    visit.connack_properties = dict(answer.properties)
    for identifier, full, what in CAPABILITIES:
        value = answer.properties.get(identifier, full)
        if value < full:
            yield warned(f"{what}: {value}", "programs that need it do not work with this broker")
    limits = [f"{what} {answer.properties[one]}" for one, what in LIMITS if one in answer.properties]
    yield passed(f"limits: {', '.join(limits) or 'none'}")


def _certificate(connection: ssl.SSLSocket) -> str:
    """Return subject and last day of a certificate, or that it was not verified."""
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
        return "no answer: a firewall drops the packets, or the machine is off"
    return "is there a route to it? Try: ip route get ADDRESS"


def _why_no_connack(visit: Visit) -> str:
    """Return the likely cause of a connection that ends before its CONNACK, or an empty string."""
    if visit.context is None and visit.speaks_tls():
        return "the port speaks TLS: use --tls, or mqtts://"
    for version in ("5", "311"):
        try:
            answer = ask(visit.login(version=version))
        except MqttkitError:
            continue
        return f"with MQTT {version} it answers: {answer.reason}; choose that version with -V"
    return ""


STEPS: tuple[Check[Visit], ...] = (
    Check("dns", "the name has an address", dns),
    Check("tcp", "the port accepts connections", tcp, (Visit.obstacle,)),
    Check("tls", "the certificate is trusted", tls, (Visit.obstacle,)),
    Check("websocket", "the broker speaks MQTT over WebSockets", websocket, (Visit.obstacle, Visit.no_websocket)),
    Check("connack", "the broker accepts our login", connack, (Visit.obstacle,)),
    Check("strangers", "the broker refuses everyone else", strangers, (Visit.obstacle,)),
    Check("capabilities", "the broker supports every MQTT 5 feature", capabilities, (Visit.obstacle,)),
    Check("suback", "we may subscribe", traffic.suback, (Visit.obstacle,)),
    Check("publish", "we may publish", traffic.publish, (Visit.obstacle,)),
    Check("round-trip", "our messages come back unchanged", traffic.round_trip, (Visit.obstacle,)),
    Check(
        "retained",
        "the broker keeps and clears retained messages",
        traffic.retained,
        (Visit.obstacle, Visit.no_retained),
    ),
    Check("shared", "the broker delivers to a shared subscription", traffic.shared, (Visit.obstacle,)),
    Check("acl", "we cannot read the topics of others", traffic.wide, (Visit.obstacle,)),
)
"""Every step, in order."""
