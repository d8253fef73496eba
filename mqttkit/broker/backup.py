"""Archives of a broker: database, configuration, users, ACL and certificates, with the proof that they are whole.

The database protects itself by nothing, so an archive carries SHA-256 sums and a summary of what is retained and
kept, and counts as good only after a throwaway broker on loopback has loaded the database and saved the same.
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

from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.accounts.roles import ACL_NAME, PASSWORDS_NAME, AccountFiles
from mqttkit.broker.lifecycle import open_broker, usable_backends
from mqttkit.broker.mosquitto.database import Summary, read_database, summarise
from mqttkit.broker.mosquitto.reload import CONF_NAME
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, locked, read_profile
from mqttkit.broker.protocol import Broker, Feature, require
from mqttkit.errors import LifecycleError, MissingPart, UsageError
from mqttkit.files import make_private_directory, read_bytes, write_secret

log = logging.getLogger(__name__)

FORMAT = 1
DATABASE = "data/mosquitto.db"
MANIFEST = "manifest.json"
CERTIFICATES = ("config/certs/ca.crt", "config/certs/server.crt", "config/certs/server.key")
RESTORED = (DATABASE, PASSWORDS_NAME, ACL_NAME, *CERTIFICATES)
"""Files that a restore replaces; mosquitto.conf is written from the broker's own settings."""
MEMBERS = (*RESTORED, CONF_NAME)
SAVE_SECONDS = 30.0
SIGNAL_SECONDS = 1.0
MAX_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive says of itself."""

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
    summary: Summary
    """What the database holds."""


@dataclass(frozen=True)
class Archive:
    """An archive that was read whole and checked against its manifest."""

    manifest: Manifest
    """What it says of itself."""
    files: Mapping[str, bytes]
    """Name and content."""


def create_backup(broker: Broker, path: Path, *, keep: int = 0) -> Manifest:
    """Write an archive, of a running broker after a forced save; return its manifest.

    With `keep`, an archive that is there moves to PATH.1 and so on, and `keep` are kept in all. Raises UsageError
    where the file is there and nothing is to be kept, LifecycleError where the broker cannot save.
    """
    require(broker, Feature.PERSISTENCE, "a backup")
    if path.exists() and not keep:
        raise UsageError(f"{path} is there already", hint="Give another name, or --keep N to rotate")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no directory")
    with locked(broker.paths):
        files = _collect(broker)
        manifest = _manifest(broker, files)
    content = _packed(manifest, files)
    if keep:
        _rotate(path, keep)
    write_secret(path, content)
    return manifest


def verify_backup(path: Path) -> Archive:
    """Read an archive, check every sum, walk the database, and let a throwaway broker load it.

    Raises UsageError for an archive that is not whole, LifecycleError where the broker does not keep what is in it.
    """
    archive = read_archive(path)
    prove(archive)
    return archive


def restore_backup(broker: Broker, path: Path) -> tuple[Archive, Path]:
    """Put an archive's files in the place of the broker's, and return it and where the old ones are kept.

    The archive is proven first, and read back after; what fails puts the old files back. Raises LifecycleError
    while the broker runs.
    """
    require(broker, Feature.PERSISTENCE, "a restore")
    with locked(broker.paths):
        _require_down(broker)
        archive = verify_backup(path)
        new: dict[str, bytes | None] = {name: archive.files[name] for name in RESTORED if name in archive.files}
        old = {name: broker.read_file(name) for name in new}
        kept = _keep_old(broker, old)
        new[PASSWORDS_NAME] = _with_own_users(broker, archive.files[PASSWORDS_NAME])
        try:
            _replace(broker, new)
            _require_same(broker, new, archive.manifest.summary)
        except BaseException:
            _replace(broker, old)
            raise
    return archive, kept


def read_archive(path: Path) -> Archive:
    """Read an archive and check it against its manifest; raise UsageError where it is not whole."""
    files = _unpacked(read_bytes(path), path)
    content = files.pop(MANIFEST, None)
    if content is None:
        raise UsageError(f"{path} has no manifest: it is no backup of mqttkit, or it is cut")
    manifest = _parse_manifest(content, path)
    if set(manifest.files) != set(files):
        raise UsageError(f"{path}: its files are not those of its manifest")
    for name, digest in manifest.files.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise UsageError(f"{path}: {name} is not what was backed up: its SHA-256 differs")
    if summarise(read_database(files[DATABASE])) != manifest.summary:
        raise UsageError(f"{path}: the database does not hold what the manifest says")
    AccountFiles.parse(files[PASSWORDS_NAME], files[ACL_NAME])
    return Archive(manifest, files)


def prove(archive: Archive) -> None:
    """Let a throwaway broker on loopback load the database and save it; raise LifecycleError where it differs."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-verify-") as directory:
        paths = BrokerPaths(Path(directory) / "broker")
        image = (archive.manifest.image or "").partition("@")[0] or None
        backend = _proving_backend(archive.manifest, image)
        spec = BrokerSpec(name=f"verify-{time.monotonic_ns():x}", backend=backend, port=0, image=image, temporary=True)
        broker = open_broker(spec, paths)
        with locked(paths):
            try:
                broker.write_file(DATABASE, archive.files[DATABASE])
                broker.up()
                found = summarise(read_database(forced_save(broker)))
            finally:
                broker.down(volumes=True)
    if found != archive.manifest.summary:
        raise LifecycleError(
            f"a broker that loaded the backup keeps {found.retained} retained messages and {found.sessions} sessions, "
            f"not {archive.manifest.summary.retained} and {archive.manifest.summary.sessions}"
        )


def forced_save(broker: Broker) -> bytes:
    """Let a running broker save its database now, and return the new file; raise LifecycleError.

    The signal is sent again each second: mosquitto forgets one that comes while it finishes another save.
    """
    before = broker.file_stamp(DATABASE)
    begin, sent = time.monotonic(), 0
    while broker.file_stamp(DATABASE) in (before, None):
        waited = time.monotonic() - begin
        if waited > SAVE_SECONDS:
            raise LifecycleError(
                f"the broker did not save its database in {SAVE_SECONDS:g} s", hint="See: mqttkit broker logs"
            )
        if waited >= sent * SIGNAL_SECONDS:
            broker.signal("USR1")
            sent += 1
        time.sleep(0.02)
    content = broker.read_file(DATABASE)
    if content is None:
        raise LifecycleError("the broker's database has vanished")
    return content


def _collect(broker: Broker) -> dict[str, bytes]:
    found = {name: broker.read_file(name) for name in MEMBERS}
    if broker.running() is not None:
        found[DATABASE] = forced_save(broker)
    if found[DATABASE] is None:
        raise LifecycleError("the broker has no database to back up", hint="Start it once: mqttkit broker up")
    AccountFiles.parse(found[PASSWORDS_NAME], found[ACL_NAME])
    return {name: content for name, content in found.items() if content is not None}


def _manifest(broker: Broker, files: Mapping[str, bytes]) -> Manifest:
    profile = read_profile(broker.paths)
    try:
        summary = summarise(read_database(files[DATABASE]))
    except UsageError as error:
        raise LifecycleError(f"the broker's own database is not whole: {error.message}") from error
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
    """Return the members; only plain files of known names are taken."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflated(content, path)), mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None or entry.name not in (*MEMBERS, MANIFEST) or entry.name in files:
                    raise UsageError(f"{path}: {entry.name!r} has no place in a backup")
                files[entry.name] = file.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path} is no backup, or it is cut: {error}") from error
    return files


def _inflated(content: bytes, path: Path) -> bytes:
    """Unpack to the end, so that gzip's own sum is checked; raise UsageError for what would fill the memory."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB")
    return data


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(content)
        if values.pop("format") != FORMAT:
            raise UsageError(f"{path} was made by a newer mqttkit", hint="Update mqttkit")
        manifest = Manifest(**{**values, "summary": Summary(**values["summary"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: its manifest is broken: {error}") from error
    missing = [name for name in (DATABASE, PASSWORDS_NAME, ACL_NAME) if name not in manifest.files]
    if missing:
        raise UsageError(f"{path}: {missing[0]} is not in it")
    return manifest


def _rotate(path: Path, keep: int) -> None:
    """Move PATH to PATH.1, PATH.1 to PATH.2 and so on; remove what goes beyond `keep`."""
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
            "a backup is proven by a broker, and none that keeps messages can be started here",
            hint="Install one with: apt-get install mosquitto",
        )
    if manifest.backend not in able:
        log.warning("the %s backend cannot be used here: the backup is proven with %s", manifest.backend, able[0])
    return manifest.backend if manifest.backend in able else able[0]


def _require_down(broker: Broker) -> None:
    if broker.running() is not None:
        raise LifecycleError(
            f"broker {broker.spec.name!r} runs: it would overwrite what is restored",
            hint=f"Stop it first: mqttkit broker down --name {broker.spec.name}",
        )


def _with_own_users(broker: Broker, content: bytes) -> bytes:
    """Return the password file with this broker's own operator and probe: their passwords are in its profile."""
    users = PasswordFile.parse(content.decode(), where=PASSWORDS_NAME)
    profile = read_profile(broker.paths)
    if profile is None:
        return content
    for user, password in (
        (profile.username, profile.password),
        (profile.probe_username, profile.probe_password),
    ):
        if user and password and not users.verify(user, password):
            users = users.with_user(user, password)
    return users.render().encode()


def _keep_old(broker: Broker, old: Mapping[str, bytes | None]) -> Path:
    """Write the files that a restore replaces to a directory of their own."""
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


def _require_same(broker: Broker, files: Mapping[str, bytes | None], summary: Summary) -> None:
    """Read everything back; raise LifecycleError where it is not what was written."""
    for name, content in files.items():
        if broker.read_file(name) != content:
            raise LifecycleError(f"{name} reads back otherwise than it was written; the old files are back")
    if summarise(read_database(files[DATABASE] or b"")) != summary:
        raise LifecycleError("the restored database does not hold what the manifest says; the old files are back")
