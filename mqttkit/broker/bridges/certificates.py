"""The certificates of a bridge, from files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from mqttkit.client.transport.tls import make_context
from mqttkit.errors import UsageError, reason_of
from mqttkit.settings import TlsSettings


@dataclass(frozen=True, kw_only=True)
class BridgeCertificates:
    """PEM texts."""

    trusted: str
    """Certificates of the authorities to trust."""
    certificate: str | None
    """Certificate chain to show to the other broker."""
    key: str | None = field(repr=False)
    """Private key of that certificate."""


def read_certificates(
    *, cafile: str | None = None, cert: str | None = None, key: str | None = None
) -> BridgeCertificates:
    """Read the files; without `cafile` the system's authorities. The key may be in the file of the certificate.

    Raises UsageError or ConfigError if mosquitto could not use them: not PEM, key of another certificate, passphrase.
    """
    trusted = cafile or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    make_context(TlsSettings(ca_file=trusted, cert_file=cert, key_file=key))
    try:
        return BridgeCertificates(
            trusted=Path(trusted).read_text(),
            certificate=Path(cert).read_text() if cert else None,
            key=Path(key or cert).read_text() if cert else None,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the certificates: {reason_of(error)}") from error
