"""Checks of the TLS listener, each by a handshake."""

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
from mqttkit.broker.file_names import CERTIFICATE_FILE
from mqttkit.broker.probe import unverified_tls
from mqttkit.errors import BrokerUnreachable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SECONDS = 5.0
WARN_DAYS = 30
OLD = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}
CANNOT = ("NO_PROTOCOLS_AVAILABLE", "UNSUPPORTED_PROTOCOL_VERSION")
"""Reasons that our own OpenSSL gives when it does not speak an old version."""


def versions(examined: ExaminedBroker) -> Iterator[Result]:
    """Offer only TLS 1.0, then only TLS 1.1: the broker must refuse."""
    for name, version in OLD.items():
        try:
            _shake_hands(examined, _old_context(version)).close()
        except ssl.SSLError as error:
            if error.reason in CANNOT:
                yield not_checked(f"this machine's OpenSSL does not speak {name}")
            else:
                yield passed(f"{name} is refused: {_reason(error)}")
        except ConnectionError as error:
            yield passed(f"{name} is refused: {error.strerror}")
        else:
            yield failed(f"the broker speaks {name}", examined.restart)


def chain(examined: ExaminedBroker) -> Iterator[Result]:
    """Verify the certificate as a client does: chain, dates, and the name or address."""
    profile = examined.profile
    if profile.ca_file is None or not Path(profile.ca_file).is_file():
        yield not_checked(f"the authority's certificate is missing: {profile.ca_file}")
        return
    context = ssl.create_default_context(cafile=profile.ca_file)
    try:
        _shake_hands(examined, context).close()
    except ssl.SSLCertVerificationError as error:
        yield failed(f"a client does not trust it: {error.verify_message}", _renew(examined))
    else:
        yield passed(f"a client that trusts the authority trusts {profile.host}:{profile.tls_port}")


def expiry(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the dates of the served certificate and of the authority's certificate."""
    yield _lasting("the served certificate", _served(examined), _renew(examined))
    ca_file = examined.profile.ca_file
    if ca_file is not None and Path(ca_file).is_file():
        from cryptography import x509

        authority = x509.load_pem_x509_certificate(Path(ca_file).read_bytes())
        yield _lasting("the authority's certificate", authority, f"mqttkit broker cert init{examined.name_option}")


def serial(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare the serial numbers of the served certificate and the file: a renewed one needs a reload."""
    from cryptography import x509

    content = examined.broker.read_file(CERTIFICATE_FILE)
    if content is None:
        yield failed(f"{CERTIFICATE_FILE} is missing", f"mqttkit broker cert server{examined.name_option}")
        return
    stored = x509.load_pem_x509_certificate(content)
    served = _served(examined)
    if stored.serial_number == served.serial_number:
        yield passed(f"the broker serves serial {served.serial_number:x}, as on disk")
    else:
        yield failed(
            f"the broker serves serial {served.serial_number:x}, but {stored.serial_number:x} is on disk",
            f"mqttkit broker reload{examined.name_option}",
        )


def client_certificate(examined: ExaminedBroker) -> Iterator[Result]:
    """Log in as the operator without a certificate: the broker must refuse that if it requires one."""
    if not examined.broker.spec.client_certificates:
        yield not_checked("the broker does not require client certificates (--client-certificates)")
        return
    try:
        reason = refusal(examined.endpoint("TLS"), examined.profile.username, examined.profile.password)
    except BrokerUnreachable as error:
        yield passed(f"the broker refuses a client without a certificate: {error.cause}")
        return
    if reason is None:
        yield failed("the TLS listener accepts the right password without a certificate", examined.restart)
    else:
        yield passed(f"the broker refuses a client without a certificate: {reason}")


def _lasting(what: str, certificate: Certificate, fix: str) -> Result:
    left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < timedelta(0):
        return failed(f"{what} expired on {until}", fix)
    if left < timedelta(days=WARN_DAYS):
        return warned(f"{what} expires on {until}, in {left.days} days", fix)
    return passed(f"{what} is valid until {until}")


def _served(examined: ExaminedBroker) -> Certificate:
    """Return the certificate that the broker serves, even an invalid one."""
    from cryptography import x509

    with _shake_hands(examined, unverified_tls()) as connection:
        der = connection.getpeercert(binary_form=True)
    if der is None:
        raise BrokerUnreachable(
            f"{examined.profile.host}:{examined.profile.tls_port}", "tls", "the broker serves no certificate"
        )
    return x509.load_der_x509_certificate(der)


def _shake_hands(examined: ExaminedBroker, context: ssl.SSLContext) -> ssl.SSLSocket:
    profile = examined.profile
    host = profile.other_host or profile.host
    connection = socket.create_connection((host, int(profile.tls_port or 0)), timeout=SECONDS)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _old_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a context that speaks one old version only."""
    context = unverified_tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the check needs them
        context.minimum_version = version
        context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _renew(examined: ExaminedBroker) -> str:
    return f"mqttkit broker cert renew{examined.name_option}"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
