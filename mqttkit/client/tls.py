"""TLS contexts from settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.errors import ConfigError
from mqttkit.settings import TlsSettings

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a client context of TLS 1.2 or newer; raise ConfigError naming the file that cannot be used."""
    import ssl

    for file in (settings.ca_file, settings.cert_file, settings.key_file):
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"no file {file!r}", where="TLS")
    if settings.key_file and not settings.cert_file:
        raise ConfigError("a private key needs its certificate", where="TLS", hint="Give --cert too")
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{settings.ca_file!r} is no PEM file of certificates: {error}", where="TLS") from error
    # Python 3.13 would refuse authorities without a key usage extension, as OpenSSL's own example makes them
    # (https://docs.python.org/3/library/ssl.html#ssl.VERIFY_X509_STRICT): the same are trusted with every Python.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.cert_file:
        _load_certificate(context, settings, settings.cert_file)
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        log.warning("TLS certificates are not checked (insecure): anybody between here and the broker can read")
    return context


def files_stamp(settings: TlsSettings) -> tuple[int, ...]:
    """Return numbers that change when one of the files does; 0 stands for a file that is not there."""
    stamps: list[int] = []
    for file in (settings.ca_file, settings.cert_file, settings.key_file):
        try:
            stamps.append(Path(file).stat().st_mtime_ns if file is not None else 0)
        except OSError:
            stamps.append(0)
    return tuple(stamps)


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings, cert_file: str) -> None:
    import ssl

    # Without a password OpenSSL would ask for one on the terminal, from whatever thread this is.
    password = settings.key_password or ""
    try:
        context.load_cert_chain(cert_file, settings.key_file, lambda: password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"certificate {cert_file!r} and key {settings.key_file or cert_file!r} cannot be used: {error}",
            where="TLS",
        ) from error
