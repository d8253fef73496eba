"""The certificate that `up --tls-port` makes where there is none yet."""

from __future__ import annotations

import socket
from pathlib import Path

from mqttkit.addresses import is_loopback
from mqttkit.broker.profile import BrokerSpec
from mqttkit.errors import UsageError

WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - names them


def first_certificate(spec: BrokerSpec, authority: Path) -> dict[str, bytes]:
    """Return name and content of the files of a server certificate, signed by the broker's own authority.

    The authority is made where there is none. The certificate is valid for loopback and the address listened on,
    or for the machine's name where that is every address.
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
        "config/certs/ca.crt": signer.pem,
        "config/certs/server.crt": issued.certificate,
        "config/certs/server.key": issued.key,
    }


def _names(listen: str) -> tuple[str, ...]:
    """Return what others call the listener."""
    if listen in WILDCARDS:
        return (socket.gethostname(),)
    return () if is_loopback(listen) else (listen,)
