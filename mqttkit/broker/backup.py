"""Archives of a broker: database, settings, users, ACL and certificates, with the proof that they are complete.

mosquitto's database has no checksum. So an archive contains SHA-256 sums and a summary of retained messages and
sessions, and it is valid only if a throwaway broker on loopback loads the database and saves the same again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import logging
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mqttkit.broker.accounts.initial_files import passwords_for_start
from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.file_names import (
    ACL_FILE,
    CA_FILE,
    CERTIFICATE_FILE,
    CONFIGURATION_FILE,
    DATABASE_FILE,
    KEY_FILE,
    PASSWORD_FILE,
    REVOCATION_FILE,
)
from mqttkit.broker.lifecycle import open_broker, usable_backends
from mqttkit.broker.live.save import save_database
from mqttkit.broker.mosquitto.database import DatabaseSummary, read_database, summarise
from mqttkit.broker.operator_files import (
    AUTHORITY,
    AUTHORITY_KEY,
    BRIDGES,
    SETTINGS,
    archived_authority,
    archived_settings,
    authority_files,
    operator_files,
    restore_operator_files,
)
from mqttkit.broker.profile import (
    BrokerPaths,
    BrokerSpec,
    load_spec,
    locked,
    read_profile,
    spec_json,
)
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import LifecycleError, MissingPart, UsageError, reason_of
from mqttkit.files import make_private_directory, read_bytes, write_secret

log = logging.getLogger(__name__)

FORMAT = 2
FORMATS = (1, 2)
"""Format 1 has no settings and no authority."""
MANIFEST = "manifest.json"
RESTORED = (DATABASE_FILE, PASSWORD_FILE, ACL_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOCATION_FILE)
"""Files that a restore replaces; `up` writes mosquitto.conf from the broker's settings."""
MEMBERS = (*RESTORED, CONFIGURATION_FILE, SETTINGS, BRIDGES, AUTHORITY, AUTHORITY_KEY)
MAX_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an archive that is stored in it."""

    created: str
    """UTC, ISO 8601."""
    name: str
    """Name of the broker."""
    backend: str
    """Backend that ran it."""
    version: str
    """Version of mosquitto."""
    image: str | None
    """Docker image with its digest."""
    files: Mapping[str, str]
    """Name and SHA-256 of each file."""
    summary: DatabaseSummary
    """Counts and digests of the database's contents."""


@dataclass(frozen=True)
class Archive:
    """An archive that was read completely and checked against its manifest."""

    manifest: Manifest
    """Its description."""
    files: Mapping[str, bytes]
    """Name and content."""


def create_backup(broker: Broker, path: Path, *, keep: int = 0, passphrase: str | None = None) -> Manifest:
    """Write an archive and return its manifest; a running broker first saves its database.

    With `keep`, an existing archive moves to PATH.1 and so on, and `keep` archives remain. With `passphrase`, the
    archive contains the authority's key, encrypted. Raises UsageError if the file exists and `keep` is 0,
    LifecycleError if the broker cannot save.
    """
    require(broker, Feature.PERSISTENCE, "a backup")
    if path.exists() and not keep:
        raise UsageError(f"{path} already exists", hint="Choose another name, or rotate with --keep N")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory")
    with locked(broker.paths):
        files = {**_collect(broker), **authority_files(broker.paths, passphrase)}
        manifest = _manifest(broker, files)
    content = _packed(manifest, files)
    if keep:
        _rotate(path, keep)
    write_secret(path, content)
    record = {"path": str(path.absolute()), "time": time.time()}
    write_secret(broker.paths.last_backup, json.dumps(record).encode())
    return manifest


def verify_backup(path: Path) -> Archive:
    """Read an archive, check every sum, walk the database, and let a throwaway broker load it.

    Raises UsageError if the archive is incomplete, LifecycleError if the broker does not keep its contents.
    """
    archive = read_archive(path)
    prove(archive)
    return archive


def broker_for_restore(name: str, path: Path) -> Broker:
    """Return the broker that an archive is restored to; if none has the name, one with the archive's settings."""
    paths = BrokerPaths.of(name)
    if (spec := load_spec(paths)) is not None:
        return open_broker(spec, paths)
    archive = read_archive(path)
    spec = archived_settings(archive.files) or BrokerSpec(backend=archive.manifest.backend)
    backend = spec.backend if spec.backend in usable_backends() else _proving_backend(archive.manifest, spec.image)
    return open_broker(dataclasses.replace(spec, name=name, backend=backend), paths)


def restore_backup(broker: Broker, path: Path, *, passphrase: str | None = None) -> tuple[Archive, Path]:
    """Replace the broker's files by those of an archive; return the archive and the directory of the old files.

    The broker gets the archive's settings, and with `passphrase` the authority's key. The archive is verified first,
    and the files are read back afterwards; a failure restores the old files. Raises LifecycleError while the broker
    runs.
    """
    require(broker, Feature.PERSISTENCE, "a restore")
    with locked(broker.paths):
        _require_down(broker)
        archive = verify_backup(path)
        authority = archived_authority(archive.files, passphrase)
        new: dict[str, bytes | None] = {name: archive.files[name] for name in RESTORED if name in archive.files}
        old = {name: broker.read_file(name) for name in new}
        kept = _keep_old(broker, {**old, **operator_files(broker.paths)})
        if profile := read_profile(broker.paths):
            new[PASSWORD_FILE] = passwords_for_start(archive.files[PASSWORD_FILE], profile)
        try:
            _replace(broker, new)
            _require_same(broker, new, archive.manifest.summary)
        except BaseException:
            _replace(broker, old)
            raise
        restore_operator_files(broker, archive.files, authority)
    return archive, kept


def read_archive(path: Path) -> Archive:
    """Read an archive and check it against its manifest; raise UsageError if it is incomplete."""
    files = _unpacked(read_bytes(path), path)
    content = files.pop(MANIFEST, None)
    if content is None:
        raise UsageError(f"{path} has no manifest: it is not a backup of mqttkit, or it is truncated")
    manifest = _parse_manifest(content, path)
    if set(manifest.files) != set(files):
        raise UsageError(f"{path}: its files differ from its manifest")
    for name, digest in manifest.files.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise UsageError(f"{path}: {name} has changed since the backup: its SHA-256 differs")
    if summarise(read_database(files[DATABASE_FILE])) != manifest.summary:
        raise UsageError(f"{path}: the database differs from the manifest")
    AccountFiles.parse(files[PASSWORD_FILE], files[ACL_FILE])
    return Archive(manifest, files)


def prove(archive: Archive) -> None:
    """Let a throwaway broker on loopback load and save the database; raise LifecycleError if the result differs."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-verify-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        image = (archive.manifest.image or "").partition("@")[0] or None
        backend = _proving_backend(archive.manifest, image)
        spec = BrokerSpec(name=f"verify-{time.monotonic_ns():x}", backend=backend, port=0, image=image, temporary=True)
        broker = open_broker(spec, paths)
        with locked(paths):
            try:
                broker.write_file(DATABASE_FILE, archive.files[DATABASE_FILE])
                broker.up()
                save_database(broker)
                found = summarise(read_database(broker.read_file(DATABASE_FILE) or b""))
            finally:
                broker.down(volumes=True)
    if found != archive.manifest.summary:
        raise LifecycleError(
            f"a broker that loaded the backup has {found.retained} retained messages and {found.sessions} sessions, "
            f"not {archive.manifest.summary.retained} and {archive.manifest.summary.sessions}"
        )


def _collect(broker: Broker) -> dict[str, bytes]:
    if broker.running() is not None:
        save_database(broker)
    found = {name: broker.read_file(name) for name in (*RESTORED, CONFIGURATION_FILE)}
    if found[DATABASE_FILE] is None:
        raise LifecycleError("the broker has no database to back up", hint="Start it once: mqttkit broker up")
    AccountFiles.parse(found[PASSWORD_FILE], found[ACL_FILE])
    found[SETTINGS] = spec_json(broker.spec)
    if broker.paths.bridges.exists():
        found[BRIDGES] = broker.paths.bridges.read_bytes()
    return {name: content for name, content in found.items() if content is not None}


def _manifest(broker: Broker, files: Mapping[str, bytes]) -> Manifest:
    profile = read_profile(broker.paths)
    try:
        summary = summarise(read_database(files[DATABASE_FILE]))
    except UsageError as error:
        raise LifecycleError(f"the broker's own database is damaged: {error.message}") from error
    return Manifest(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        name=broker.spec.name,
        backend=broker.backend,
        version=".".join(map(str, broker.version())),
        image=profile.image if profile else None,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        summary=summary,
    )


def _packed(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=2) + "\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in {MANIFEST: text.encode(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _unpacked(content: bytes, path: Path) -> dict[str, bytes]:
    """Return the members; only regular files with known names are accepted."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflated(content, path)), mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None or entry.name not in (*MEMBERS, MANIFEST) or entry.name in files:
                    raise UsageError(f"{path}: {entry.name!r} does not belong in a backup")
                files[entry.name] = file.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path} is not a backup, or it is truncated: {reason_of(error)}") from error
    return files


def _inflated(content: bytes, path: Path) -> bytes:
    """Unpack to the end, so that gzip checks its own sum; raise UsageError if the content is too large for memory."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB")
    return data


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(content)
        if values.pop("format") not in FORMATS:
            raise UsageError(f"{path} was created by a newer mqttkit", hint="Update mqttkit")
        manifest = Manifest(**{**values, "summary": DatabaseSummary(**values["summary"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: its manifest is invalid: {error}") from error
    missing = [name for name in (DATABASE_FILE, PASSWORD_FILE, ACL_FILE) if name not in manifest.files]
    if missing:
        raise UsageError(f"{path}: {missing[0]} is missing")
    return manifest


def _rotate(path: Path, keep: int) -> None:
    """Move PATH to PATH.1, PATH.1 to PATH.2 and so on; remove the oldest beyond `keep`."""
    aged = [path, *(path.with_name(f"{path.name}.{age}") for age in range(1, keep))]
    aged[-1].unlink(missing_ok=True)
    for younger, older in reversed(list(itertools.pairwise(aged))):
        with contextlib.suppress(FileNotFoundError):
            younger.replace(older)


def _proving_backend(manifest: Manifest, image: str | None) -> str:
    """Return a backend for the throwaway broker: the archive's own, or another that keeps a database."""
    if manifest.backend == "docker" and image:
        from mqttkit.broker.backends.docker.backend import DockerBroker

        if not DockerBroker.unusable(image):
            return "docker"
    able = [name for name in usable_backends() if name != "embedded"]
    if not able:
        raise MissingPart(
            "a broker must load a backup to verify it, and this machine has no broker that keeps messages",
            hint="Install one with: apt-get install mosquitto",
        )
    if manifest.backend not in able:
        log.warning("this machine cannot use the %s backend: %s verifies the backup", manifest.backend, able[0])
    return manifest.backend if manifest.backend in able else able[0]


def _require_down(broker: Broker) -> None:
    if broker.running() is not None:
        raise LifecycleError(
            f"broker {broker.spec.name!r} is running: it would overwrite the restored files",
            hint=f"Stop it first: mqttkit broker down --name {broker.spec.name}",
        )


def _keep_old(broker: Broker, old: Mapping[str, bytes | None]) -> Path:
    """Write the files that a restore replaces to a separate directory."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    place = broker.paths.directory / f"before-restore-{stamp}"
    for name, content in old.items():
        if content is not None:
            make_private_directory((place / name).parent)
            write_secret(place / name, content)
    return place


def _replace(broker: Broker, files: Mapping[str, bytes | None]) -> None:
    for name, content in files.items():
        if content is None:
            broker.remove_file(name)
        else:
            broker.write_file(name, content)


def _require_same(broker: Broker, files: Mapping[str, bytes | None], summary: DatabaseSummary) -> None:
    """Read everything back; raise LifecycleError if it differs from what was written."""
    for name, content in files.items():
        if broker.read_file(name) != content:
            raise LifecycleError(f"{name} differs after it was written; the old files are back")
    if summarise(read_database(files[DATABASE_FILE] or b"")) != summary:
        raise LifecycleError("the restored database differs from the manifest; the old files are back")
