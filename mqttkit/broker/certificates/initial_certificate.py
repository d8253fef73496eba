"""The certificate that `up --tls-port` creates if there is none yet."""

from __future__ import annotations

import socket
from pathlib import Path

from mqttkit.addresses import is_loopback
from mqttkit.broker.file_names import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from mqttkit.broker.profile import BrokerSpec
from mqttkit.errors import UsageError

WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - names them


def first_certificate(spec: BrokerSpec, authority: Path) -> dict[str, bytes]:
    """Return name and content of the files of a server certificate, signed by the broker's own authority.

    The authority is created if there is none. The certificate is valid for loopback and the listen address, or for
    the machine's name if the broker listens on every address.
    """
    from mqttkit.broker.certificates.authority import Authority

    if not (authority / "ca.key").exists():
        Authority.create(f"mqttkit {spec.name}").save(authority)
    signer = Authority.load(authority)
    try:
        issued = signer.sign_server(_names(spec.listen))
    except UsageError:
        issued = signer.sign_server()
    return {
        CA_FILE: signer.pem,
        CERTIFICATE_FILE: issued.certificate,
        KEY_FILE: issued.key,
    }


def _names(listen: str) -> tuple[str, ...]:
    """Return the names that other machines use for the listener."""
    if listen in WILDCARDS:
        return (socket.gethostname(),)
    return () if is_loopback(listen) else (listen,)
