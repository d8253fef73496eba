"""What a backup contains besides the broker's own files: the operator's settings and the certificate authority."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mqttkit.broker.file_names import CA_FILE
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, parse_spec, save_spec
from mqttkit.broker.protocol import Broker
from mqttkit.errors import UsageError
from mqttkit.files import make_private_directory, write_secret

if TYPE_CHECKING:
    from mqttkit.broker.certificates.authority import Authority

log = logging.getLogger(__name__)

SETTINGS = "broker.json"
"""Listeners, ports, limits and the other settings of the broker."""
BRIDGES = "bridges.json"
"""Connections to other brokers, with their passwords."""
AUTHORITY, AUTHORITY_KEY = "ca/ca.crt", "ca/ca.key"
"""The authority's certificate and its key, which is encrypted with a passphrase."""


def archived_settings(files: Mapping[str, bytes]) -> BrokerSpec | None:
    """Return the broker's settings; None in an archive of an older mqttkit."""
    content = files.get(SETTINGS)
    return None if content is None else parse_spec(content, where=SETTINGS)


def authority_files(paths: BrokerPaths, passphrase: str | None) -> dict[str, bytes]:
    """Return certificate and encrypted key of the authority; nothing without a passphrase."""
    if passphrase is None:
        return {}
    from mqttkit.broker.certificates.authority import Authority

    authority = Authority.load(paths.authority)
    return {AUTHORITY: authority.pem, AUTHORITY_KEY: authority.encrypted_key(passphrase)}


def archived_authority(files: Mapping[str, bytes], passphrase: str | None) -> Authority | None:
    """Return the archive's authority; None without a passphrase or if the archive has no key."""
    from mqttkit.broker.certificates.authority import Authority

    key = files.get(AUTHORITY_KEY)
    if passphrase is None:
        if key is not None:
            log.warning("the authority's key was not restored: it needs --passphrase-file")
        return None
    if key is None:
        raise UsageError("the archive does not contain the authority's key", hint="Restore it without a passphrase")
    return Authority.decrypted(files[AUTHORITY], key, passphrase)


def operator_files(paths: BrokerPaths) -> dict[str, bytes | None]:
    """Return the files of the operator that a restore may replace."""
    names = {SETTINGS: paths.spec, BRIDGES: paths.bridges}
    names |= {AUTHORITY: paths.authority / "ca.crt", AUTHORITY_KEY: paths.authority / "ca.key"}
    return {name: place.read_bytes() if place.exists() else None for name, place in names.items()}


def restore_operator_files(broker: Broker, files: Mapping[str, bytes], authority: Authority | None) -> None:
    """Write the broker's settings and its authority; the broker keeps its name and backend."""
    paths, spec = broker.paths, archived_settings(files)
    if spec is not None:
        broker.spec = dataclasses.replace(spec, name=broker.spec.name, backend=broker.backend, temporary=False)
    save_spec(paths, broker.spec)
    if BRIDGES in files:
        write_secret(paths.bridges, files[BRIDGES])
    if authority is not None:
        authority.save(paths.authority)
    elif CA_FILE in files and not (paths.authority / "ca.crt").exists():
        make_private_directory(paths.authority)
        write_secret(paths.authority / "ca.crt", files[CA_FILE], mode=0o644)
