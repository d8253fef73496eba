"""TLS contexts from settings, and from files that change while the client runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.errors import ConfigError, MissingPart
from mqttkit.settings import TlsSettings

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a client context of TLS 1.2 or newer; raise ConfigError naming the file that cannot be used."""
    import ssl

    if settings.psk is not None:
        return _shared_key_context(settings)
    files = {"--cafile": settings.ca_file, "--cert": settings.cert_file, "--key": settings.key_file}
    for option, file in files.items():
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"no file {file!r}", where="TLS", hint=f"Check the path given with {option}")
    if settings.key_file and not settings.cert_file:
        raise ConfigError("a private key needs its certificate", where="TLS", hint="Give --cert too")
    # Not `create_default_context`: that of Python 3.13 refuses authorities without a key usage extension, such as those
    # of OpenSSL's own example, and each one raises if it cannot write $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_authorities(context, settings.ca_file)
    _log_keys(context)
    if settings.cert_file:
        _load_certificate(context, settings, settings.cert_file)
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        log.warning("TLS certificates are not checked (insecure): anyone between this machine and the broker can read")
    return context


def _load_authorities(context: ssl.SSLContext, ca_file: str | None) -> None:
    import ssl

    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{ca_file!r} is not a PEM file of certificates: {error}", where="TLS") from error


def _log_keys(context: ssl.SSLContext) -> None:
    """Write the keys of connections into $SSLKEYLOGFILE, for Wireshark; warn if that file cannot be written."""
    name = os.environ.get("SSLKEYLOGFILE")
    if name:
        try:
            context.keylog_filename = name
        except OSError as error:
            log.warning("cannot write TLS keys into SSLKEYLOGFILE: %s", error)


def _shared_key_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a context for a pre-shared key; raise MissingPart if this Python does not support one."""
    import ssl

    if not hasattr(ssl.SSLContext, "set_psk_client_callback"):
        raise MissingPart(
            "TLS with a pre-shared key needs Python 3.13 or newer", hint="Use a certificate: --cert, --key"
        )
    credentials = (settings.psk_identity, bytes.fromhex(settings.psk or ""))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the key proves who the broker is
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # brokers take keys of RFC 4279
    context.set_ciphers("PSK")
    context.set_psk_client_callback(lambda _hint: credentials)  # type: ignore[attr-defined]  # Python 3.13
    return context


class TlsFiles:
    """The files of TLS settings, read again when one of them changes."""

    def __init__(self, settings: TlsSettings) -> None:
        """Read the files; raise ConfigError as `make_context` does."""
        self._settings = settings
        self._times = self._modified()
        self._context = make_context(settings)

    def context(self) -> ssl.SSLContext:
        """Return a context of the files as they are now; the previous one if they cannot be used."""
        times = self._modified()
        if times != self._times:
            self._times = times
            try:
                self._context = make_context(self._settings)
            except ConfigError as error:
                log.error("cannot use the changed certificates, the previous ones stay in use: %s", error)  # noqa: TRY400  # no trace needed
            else:
                log.info("read the changed certificates again")
        return self._context

    def _modified(self) -> tuple[int, ...]:
        """Return when each file was modified; 0 for one that is missing or not set."""
        times: list[int] = []
        for file in (self._settings.ca_file, self._settings.cert_file, self._settings.key_file):
            try:
                times.append(Path(file).stat().st_mtime_ns if file is not None else 0)
            except OSError:
                times.append(0)
        return tuple(times)


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings, cert_file: str) -> None:
    import ssl

    # Without a password OpenSSL would ask for one on the terminal, in any thread.
    password = settings.key_password or ""
    try:
        context.load_cert_chain(cert_file, settings.key_file, lambda: password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"certificate {cert_file!r} and key {settings.key_file or cert_file!r} cannot be used: {error}",
            where="TLS",
            hint="--cert takes a PEM file with the client's certificate, --key one with its private key",
        ) from error
