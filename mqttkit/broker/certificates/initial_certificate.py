"""The certificates that `up --tls-port` creates if there are none yet."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from mqttkit.addresses import is_loopback
from mqttkit.broker.file_names import CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOCATION_FILE
from mqttkit.broker.profile import BrokerSpec
from mqttkit.errors import UsageError

WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - names them


def missing_certificates(spec: BrokerSpec, authority: Path, read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """Return name and content of the certificate files that a start needs and the broker lacks."""
    from mqttkit.broker.certificates.authority import Authority

    if spec.tls and read(CERTIFICATE_FILE) is None:
        return _first_certificate(spec, authority)
    if spec.client_certificates and read(REVOCATION_FILE) is None and can_sign(authority):
        return {REVOCATION_FILE: Authority.load(authority).revocation_list()}
    return {}


def has_revocations(spec: BrokerSpec, authority: Path, read: Callable[[str], bytes | None]) -> bool:
    """Return whether the broker has a revocation list, or gets one at its start; without our authority it may not."""
    return not spec.client_certificates or can_sign(authority) or read(REVOCATION_FILE) is not None


def can_sign(authority: Path) -> bool:
    """Return whether the broker's own authority is here with its key."""
    return (authority / "ca.key").exists()


def _first_certificate(spec: BrokerSpec, authority: Path) -> dict[str, bytes]:
    """Return the files of a server certificate, signed by the broker's own authority.

    The authority is created if there is none. The certificate is valid for loopback and the listen address, or for
    the machine's name if the broker listens on every address; in a Docker network also for the container's name.
    """
    from mqttkit.broker.certificates.authority import Authority

    if not can_sign(authority):
        Authority.create(f"mqttkit {spec.name}").save(authority)
    signer = Authority.load(authority)
    try:
        issued = signer.sign_server((*_names(spec.listen), *network_names(spec)))
    except UsageError:
        issued = signer.sign_server(network_names(spec))
    return {
        CA_FILE: signer.pem,
        CERTIFICATE_FILE: issued.certificate,
        KEY_FILE: issued.key,
        REVOCATION_FILE: signer.revocation_list(),
    }


def network_names(spec: BrokerSpec) -> tuple[str, ...]:
    """Return the name by which other containers of its network reach the broker."""
    return (f"mqttkit-{spec.name}",) if spec.network else ()


def _names(listen: str) -> tuple[str, ...]:
    """Return the names that other machines use for the listener."""
    if listen in WILDCARDS:
        return (socket.gethostname(),)
    return () if is_loopback(listen) else (listen,)
