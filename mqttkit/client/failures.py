"""Translate what paho, the socket and OpenSSL raise into errors that a user can act on. Pure."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

from mqttkit.addresses import is_loopback, show_address
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, MqttkitError
from mqttkit.topics import discouraged_character

UNSUPPORTED_VERSION = 0x84
SESSION_TAKEN_OVER = 0x8E
_REFUSED_V3 = {1: UNSUPPORTED_VERSION, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
"""CONNACK return codes of MQTT 3.1.1 (3.2.2.3) to reason codes of MQTT 5 (3.2.2.2)."""

_LOST = {
    "unspecified error": "the broker closed it, or the network failed",
    "keep alive timeout": "no answer to PINGREQ (keep alive)",
}

_HINTS = {
    0x84: "Try another version: -V 311 or -V 5",
    0x85: "Choose another client identifier: -i",
    0x86: "Check user name and password: -u, --password-file",
    0x87: "Check user name and password: -u, --password-file; the broker may require them",
}


_UNTRUSTED_HINTS = {
    9: "Set this machine's clock, or replace the certificate",
    10: "Renew the certificate, or set this machine's clock",
    62: "Use a host name from the certificate: -h",
    64: "Use a host name from the certificate: -h",
}
"""X509_V_ERR_… of OpenSSL: not yet valid, expired, another host name, another address."""


def unreachable(address: tuple[str, int], step: str, error: BaseException) -> BrokerUnreachable:
    """Translate what a connection attempt raised at `step` (tcp, tls, websocket or mqtt)."""
    where = show_address(*address)
    if step == "tls":
        return _tls_failure(where, error)
    if isinstance(error, (socket.gaierror, ValueError)):
        return BrokerUnreachable(where, "dns", f"no address for host {address[0]!r}", hint="Check the name: -h")
    if step == "websocket":
        return _no_upgrade(where, error)
    if isinstance(error, TimeoutError):
        return BrokerUnreachable(where, step, "no answer (timed out)", hint="A firewall, or a wrong address?")
    cause = str(error)
    if isinstance(error, OSError) and error.errno:
        cause = os.strerror(error.errno).lower()
    started = isinstance(error, ConnectionRefusedError) and is_loopback(address[0])
    return BrokerUnreachable(where, step, cause, hint="Start one with: mqttkit broker up" if started else "")


def refused(address: tuple[str, int], code: int, reason: str) -> ConnectionRefused:
    """Return the error for a CONNACK with `code`, of MQTT 5 or 3.1.1."""
    code = _REFUSED_V3.get(code, code)
    if code == UNSUPPORTED_VERSION:
        reason = "unsupported protocol version"
    return ConnectionRefused(show_address(*address), reason.lower(), code=code, hint=_HINTS.get(code, ""))


def closed_early(address: tuple[str, int], cause: str, *, tls: bool, texts: Iterable[str] = ()) -> BrokerUnreachable:
    """Return the error for a connection that ended before its CONNACK; `texts` are what CONNECT held."""
    wanted = "Does the port want a client certificate (--cert, --key), or a password?"
    hint = wanted if tls else "Does the port want TLS (--tls), WebSockets (--ws), or a password?"
    hint = next(filter(None, map(discouraged_hint, texts)), hint)
    return BrokerUnreachable(show_address(*address), "mqtt", cause, hint=hint)


def lost(address: tuple[str, int], reason: str, *, hint: str = "") -> BrokerUnreachable:
    """Return the error for a connection that ended after its CONNACK."""
    cause = _LOST.get(reason.lower(), reason if reason[:1].islower() else reason.lower())  # paho's begin with a capital
    return BrokerUnreachable(show_address(*address), "mqtt", cause, what="lost the connection to broker", hint=hint)


def discouraged_hint(text: str) -> str:
    """Return a hint that names the character in `text` over which the broker closed the connection; "" if none."""
    found = discouraged_character(text)
    return (
        f"The likely cause: {text!r} has {found}, over which many brokers close the connection (MQTT 5, 1.5.4)"
        if found
        else ""
    )


def taken_over(address: tuple[str, int], client_id: str, *, certain: bool) -> MqttkitError:
    """Return the error for a second client with our client identifier (MQTT 5, 3.1.4-3).

    A broker of MQTT 3.1.1, and mosquitto 2.0 with either version, closes the connection without a word.
    """
    seen = "took over the session" if certain else "may be: each connection was closed within seconds"
    return ConnectionRefused(
        show_address(*address),
        f"another client with the client identifier {client_id!r} {seen}",
        code=SESSION_TAKEN_OVER,
        hint="Give each client its own: -i",
    )


def _no_upgrade(where: str, error: BaseException) -> BrokerUnreachable:
    """Return the error for a port that did not answer with an upgrade to WebSockets (RFC 6455, 4.1)."""
    if getattr(error, "http", False):
        cause = "the port speaks HTTP, but did not agree to WebSockets"
        return BrokerUnreachable(where, "websocket", cause, hint="Check the port, -p, and mqtt.broker.websocket_path")
    closed = "no answer (timed out)" if isinstance(error, TimeoutError) else str(error)
    hint = "For a port of plain MQTT, drop --ws or write mqtt:// instead of ws://; otherwise check the port: -p"
    return BrokerUnreachable(where, "websocket", f"the port does not speak WebSockets ({closed})", hint=hint)


def _tls_failure(where: str, error: BaseException) -> BrokerUnreachable:
    verify = getattr(error, "verify_message", "")
    if verify:
        return BrokerUnreachable(
            where,
            "tls",
            f"its certificate is not trusted: {verify.rstrip('.')}",
            hint=_UNTRUSTED_HINTS.get(getattr(error, "verify_code", 0), "Name its authority: --cafile FILE"),
        )
    reason = getattr(error, "reason", "") or ""
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return BrokerUnreachable(where, "tls", "the port does not speak TLS", hint="Check -p, or leave TLS away")
    if isinstance(error, (ConnectionResetError, TimeoutError)) or getattr(error, "errno", 0) == errno.ECONNRESET:
        return BrokerUnreachable(where, "tls", "the TLS handshake was cut off", hint="Is it a TLS port?")
    cause = reason.replace("_", " ").lower() or str(error)
    return BrokerUnreachable(where, "tls", f"TLS handshake failed: {cause}")
