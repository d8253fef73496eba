"""Install certificates by a safe reload, and compare them with the one that the broker serves."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mqttkit.addresses import is_loopback
from mqttkit.broker.certificates.authority import (
    LEAF_DAYS,
    Authority,
    CertificateInfo,
    Issued,
    check_pair,
    inspect,
)
from mqttkit.broker.certificates.initial_certificate import WILDCARDS, network_names
from mqttkit.broker.certificates.issued import issued_serials, record_issued
from mqttkit.broker.file_names import CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOCATION_FILE
from mqttkit.broker.live.reload import apply_changes
from mqttkit.broker.probe import Login, open_socket, unverified_tls
from mqttkit.broker.profile import BrokerPaths, locked, read_profile
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import BrokerUnreachable, LifecycleError, UsageError
from mqttkit.files import make_private_directory, read_bytes, write_secret

log = logging.getLogger(__name__)

SERVED_SECONDS = 10.0


@dataclass(frozen=True)
class ListedCertificate:
    """A certificate and its location."""

    role: str
    """`ca`, `server`, `served` or `client`."""
    place: str
    """Its file, or the address that serves it."""
    info: CertificateInfo
    """Its contents."""


def install_server(broker: Broker, names: Sequence[str] = (), *, days: int = LEAF_DAYS) -> CertificateInfo:
    """Sign a new server certificate and give it to the broker, which may be running.

    Raises LifecycleError if the running broker does not serve it after the reload.
    """
    require(broker, Feature.TLS, "a server certificate")
    listen = broker.spec.listen
    listen_names = () if listen in WILDCARDS or is_loopback(listen) else (listen,)
    names = (*names, *listen_names, *network_names(broker.spec))
    issued = Authority.load(broker.paths.authority).sign_server(names, days=days)
    return _install(broker, issued)


def renew_server(broker: Broker, *, days: int = LEAF_DAYS) -> CertificateInfo:
    """Sign a new certificate, with a new key, for the names of the old one."""
    content = broker.read_file(CERTIFICATE_FILE)
    if content is None:
        raise UsageError("the broker has no server certificate yet", hint="Create one with: mqttkit broker cert server")
    return install_server(broker, inspect(content, where=CERTIFICATE_FILE).names, days=days)


def renew_authority(broker: Broker, *, days: int) -> CertificateInfo:
    """Give the authority a new validity and keep its key; the certificates it signed stay valid."""
    authority = Authority.load(broker.paths.authority).renewed(days=days)
    authority.save(broker.paths.authority)
    if broker.read_file(CA_FILE) is not None:
        with locked(broker.paths):
            apply_changes(broker, {CA_FILE: authority.pem})
    return inspect(authority.pem)


def export_client(paths: BrokerPaths, name: str, directory: Path, *, days: int, replace: bool = False) -> list[Path]:
    """Sign a client certificate and write NAME.crt, NAME.key and ca.crt; return the files.

    Raises UsageError if the directory has another authority's ca.crt, or a certificate of that name without `replace`.
    """
    if not name or "/" in name or name.startswith("."):
        raise UsageError(f"a client certificate cannot have the name {name!r}: its files have that name too")
    authority = Authority.load(paths.authority)
    certificate = client_certificate_file(directory, name)
    key = certificate.with_suffix(".key")
    _require_own_authority(directory / "ca.crt", authority)
    if not replace and (certificate.exists() or key.exists()):
        raise UsageError(f"{certificate} already exists", hint=f"Renew it with: mqttkit broker cert renew {name}")
    issued = authority.sign_client(name, days=days)
    record_issued(paths.authority, name, inspect(issued.certificate).serial)
    make_private_directory(directory)
    write_secret(key, issued.key)
    write_secret(certificate, issued.certificate, mode=0o644)
    write_secret(directory / "ca.crt", authority.pem, mode=0o644)
    return [certificate, key, directory / "ca.crt"]


def revoke_client(broker: Broker, name: str, certificate: Path | None = None) -> list[str]:
    """Revoke every certificate that was issued to a client, or the one in a file; return their serial numbers.

    A running broker with TLS refuses them from then on, also on the connections that it ends at the reload.
    """
    authority = Authority.load(broker.paths.authority)
    if certificate is not None:
        serials = [inspect(read_bytes(certificate), where=str(certificate)).serial]
    else:
        serials = issued_serials(broker.paths.authority, name)
        own = client_certificate_file(clients_directory(broker.paths), name)
        if own.exists():
            serials = sorted({*serials, inspect(read_bytes(own), where=str(own)).serial})
    if not serials:
        raise UsageError(
            f"no certificate was issued to {name!r} by this mqttkit", hint="Name the file: --certificate FILE"
        )
    with locked(broker.paths):
        before = broker.read_file(REVOCATION_FILE)
        apply_changes(broker, {REVOCATION_FILE: authority.revocation_list(before, serials)})
    return serials


def client_certificate_file(directory: Path, name: str) -> Path:
    """Return the file of a client's certificate; ca.crt is the authority's."""
    return directory / ("client-ca.crt" if name == "ca" else f"{name}.crt")


def _require_own_authority(path: Path, authority: Authority) -> None:
    """Raise UsageError if the file is the certificate of another authority; an older one of this authority is fine."""
    if not path.exists():
        return
    if not authority.has_key_of(read_bytes(path)):
        raise UsageError(f"{path} is another authority's certificate", hint="Choose another directory with --out")


def clients_directory(paths: BrokerPaths) -> Path:
    """Return the default directory of client certificates."""
    return paths.directory / "clients"


def list_certificates(broker: Broker, *, now_served: bool = True) -> list[ListedCertificate]:
    """Return every certificate of the broker: authority, server, the served one, and clients."""
    paths = broker.paths
    found = []
    if (paths.authority / "ca.crt").exists():
        found.append(_listed("ca", paths.authority / "ca.crt"))
    content = broker.read_file(CERTIFICATE_FILE)
    if content is not None:
        found.append(ListedCertificate("server", CERTIFICATE_FILE, inspect(content, where=CERTIFICATE_FILE)))
    profile = read_profile(paths)
    if now_served and profile is not None and profile.tls_port and broker.running() is not None:
        host = profile.other_host or profile.host
        served = served_certificate(host, profile.tls_port)
        found.append(ListedCertificate("served", f"{host}:{profile.tls_port}", served))
    clients = clients_directory(paths)
    files = sorted(clients.glob("*.crt")) if clients.is_dir() else []
    return found + [_listed("client", path) for path in files if path.name != "ca.crt"]


def served_certificate(host: str, port: int) -> CertificateInfo:
    """Return the certificate that a TLS listener serves now, without trusting it."""
    with open_socket(Login(host=host, port=port, tls=unverified_tls())) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        return inspect(sock.getpeercert(binary_form=True) or b"", where=f"the certificate of {host}:{port}")


def _install(broker: Broker, issued: Issued) -> CertificateInfo:
    authority = Authority.load(broker.paths.authority).pem
    check_pair(issued.certificate, issued.key, authority)
    changes = {CA_FILE: authority, CERTIFICATE_FILE: issued.certificate, KEY_FILE: issued.key}
    with locked(broker.paths):
        live = apply_changes(broker, changes)
        if live:
            serial = inspect(issued.certificate).serial
            _require_served(broker, serial)
            _warn_of_websockets(broker, serial)
    return inspect(issued.certificate)


def _require_served(broker: Broker, serial: str) -> None:
    """Wait until new connections get the certificate with this serial number; raise LifecycleError."""
    profile = read_profile(broker.paths)
    if profile is None or not profile.tls_port:
        return
    deadline = time.monotonic() + SERVED_SECONDS
    while True:
        try:
            served = served_certificate(profile.other_host or profile.host, profile.tls_port).serial
        except BrokerUnreachable as error:
            served = error.cause
        if served == serial:
            return
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the broker serves {served} after the reload, not the new certificate {serial}",
                hint="Restart it: mqttkit broker restart",
            )
        time.sleep(0.05)


def _warn_of_websockets(broker: Broker, serial: str) -> None:
    """Warn if the WebSocket listener serves the old certificate: mosquitto reads it only at its start."""
    profile = read_profile(broker.paths)
    if profile is None or not profile.websocket_tls or not profile.websocket_port:
        return
    if served_certificate(profile.other_host or profile.host, profile.websocket_port).serial != serial:
        log.warning("WebSockets serve the old certificate until the next: mqttkit broker restart")


def _listed(role: str, path: Path) -> ListedCertificate:
    return ListedCertificate(role, str(path), inspect(read_bytes(path), where=str(path)))
