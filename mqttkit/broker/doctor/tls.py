"""Checks of the TLS listener: each one shakes hands with it."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.broker.doctor.examined_broker import ExaminedBroker, refusal
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.errors import BrokerUnreachable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SECONDS = 5.0
WARN_DAYS = 30
SERVER_CERTIFICATE = "config/certs/server.crt"
OLD = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}
CANNOT = ("NO_PROTOCOLS_AVAILABLE", "UNSUPPORTED_PROTOCOL_VERSION")
"""Reasons with which our own OpenSSL declines to speak an old version."""


def versions(examined: ExaminedBroker) -> Iterator[Result]:
    """Offer only TLS 1.0, then only TLS 1.1: the broker must decline."""
    for name, version in OLD.items():
        try:
            _shake_hands(examined, _old_context(version)).close()
        except ssl.SSLError as error:
            if error.reason in CANNOT:
                yield not_checked(f"this machine's OpenSSL does not speak {name}")
            else:
                yield passed(f"{name} is declined: {_reason(error)}")
        except ConnectionError as error:
            yield passed(f"{name} is declined: {error.strerror}")
        else:
            yield failed(f"{name} is spoken", examined.restart)


def chain(examined: ExaminedBroker) -> Iterator[Result]:
    """Verify the certificate as a client does: chain, dates, and the name or address it is for."""
    profile = examined.profile
    if profile.ca_file is None or not Path(profile.ca_file).is_file():
        yield not_checked(f"there is no authority's certificate at {profile.ca_file}")
        return
    context = ssl.create_default_context(cafile=profile.ca_file)
    try:
        _shake_hands(examined, context).close()
    except ssl.SSLCertVerificationError as error:
        yield failed(f"a client does not trust it: {error.verify_message}", _renew(examined))
    else:
        yield passed(f"a client that trusts the authority trusts {profile.host}:{profile.tls_port}")


def expiry(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the dates of the certificate served, and of the authority's."""
    yield _lasting("the certificate served", _served(examined), _renew(examined))
    ca_file = examined.profile.ca_file
    if ca_file is not None and Path(ca_file).is_file():
        from cryptography import x509

        authority = x509.load_pem_x509_certificate(Path(ca_file).read_bytes())
        yield _lasting("the authority's certificate", authority, f"mqttkit broker cert init{examined.spec_name}")


def serial(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare the served certificate's serial number with the file's: a renewed one takes a reload."""
    from cryptography import x509

    content = examined.broker.read_file(SERVER_CERTIFICATE)
    if content is None:
        yield failed(f"{SERVER_CERTIFICATE} is missing", f"mqttkit broker cert server{examined.spec_name}")
        return
    stored = x509.load_pem_x509_certificate(content)
    served = _served(examined)
    if stored.serial_number == served.serial_number:
        yield passed(f"serial {served.serial_number:x} is served and on disk")
    else:
        yield failed(
            f"serial {served.serial_number:x} is served, {stored.serial_number:x} is on disk",
            f"mqttkit broker reload{examined.spec_name}",
        )


def client_certificate(examined: ExaminedBroker) -> Iterator[Result]:
    """Log in as the operator without a certificate: it must not do where one is demanded."""
    if not examined.broker.spec.client_certificates:
        yield not_checked("client certificates are not demanded here (--client-certificates)")
        return
    try:
        reason = refusal(examined.endpoint("TLS"), examined.profile.username, examined.profile.password)
    except BrokerUnreachable as error:
        yield passed(f"without a certificate there is no connection: {error.cause}")
        return
    if reason is None:
        yield failed("the right password alone opens the TLS listener", examined.restart)
    else:
        yield passed(f"without a certificate there is no connection: {reason}")


def _lasting(what: str, certificate: Certificate, fix: str) -> Result:
    left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < timedelta(0):
        return failed(f"{what} expired on {until}", fix)
    if left < timedelta(days=WARN_DAYS):
        return warned(f"{what} expires on {until}, in {left.days} days", fix)
    return passed(f"{what} lasts until {until}")


def _served(examined: ExaminedBroker) -> Certificate:
    """Return the certificate that the broker serves, whatever is wrong with it."""
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _shake_hands(examined, context) as connection:
        der = connection.getpeercert(binary_form=True)
    if der is None:
        raise BrokerUnreachable(
            f"{examined.profile.host}:{examined.profile.tls_port}", "tls", "no certificate is served"
        )
    return x509.load_der_x509_certificate(der)


def _shake_hands(examined: ExaminedBroker, context: ssl.SSLContext) -> ssl.SSLSocket:
    profile = examined.profile
    connection = socket.create_connection((profile.host, int(profile.tls_port or 0)), timeout=SECONDS)
    try:
        return context.wrap_socket(connection, server_hostname=profile.host)
    except BaseException:
        connection.close()
        raise


def _old_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a context that speaks one old version only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # asking for them is the point
        context.minimum_version = version
        context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _renew(examined: ExaminedBroker) -> str:
    return f"mqttkit broker cert renew{examined.spec_name}"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
