"""`broker backup` with a real mosquitto: made, proven, restored; and every way in which an archive is damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqttkit.broker import Broker, BrokerSpec, backup, existing_broker, start_broker
from mqttkit.broker.mosquitto.database import CHUNK, HEADER, read_database, summarise
from mqttkit.broker.profile import locked
from mqttkit.cli import cli
from mqttkit.errors import LifecycleError
from tests.support.brokers import free_port, need, profile_of
from tests.support.probe import Probe, login

RETAINED = 20
PASSWORD = "correct horse battery"


def run(*words: str, code: int = 0, text: str | None = None) -> Result:
    """Run `mqttkit broker …` and demand its exit code."""
    result = CliRunner().invoke(cli, ["broker", *words], input=text)
    assert result.exit_code == code, result.output
    return result


def operator(broker: Broker, **more: object) -> Probe:
    """Log the operator in."""
    profile = profile_of(broker)
    return Probe(profile.port, profile.username, profile.password, **more)  # type: ignore[arg-type]


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The default broker with 20 retained messages, a session with a queued message, and a user."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    run("user", "add", "lamp", "--role", "device", "--password-file", "-", text=PASSWORD)
    fill(broker)
    yield broker
    with locked(broker.paths):
        broker.down(volumes=True)


def fill(broker: Broker) -> None:
    keep = Properties(PacketTypes.CONNECT)
    keep.SessionExpiryInterval = 0xFFFF_FFFF
    with operator(broker, client_id="sleeper", properties=keep, clean=False) as sleeper:
        sleeper.subscribe("queue/#")
    with operator(broker) as writer:
        for number in range(RETAINED):
            writer.publish(f"kept/{number}", b"payload %d" % number, retain=True)
        writer.publish("queue/1", b"waits")


def retained(broker: Broker) -> dict[str, bytes]:
    """Return the retained messages that a subscriber gets."""
    with operator(broker) as reader:
        reader.subscribe("kept/#")
        reader.subscribe("barrier")
        return {message.topic: message.payload for message in reader.messages}


def waiting(broker: Broker) -> list[bytes]:
    """Return what the sleeper finds when it comes back."""
    keep = Properties(PacketTypes.CONNECT)
    keep.SessionExpiryInterval = 0xFFFF_FFFF
    with operator(broker, client_id="sleeper", properties=keep, clean=False) as sleeper:
        return [message.payload for message in sleeper.wait_for_messages(1)]


def down(broker: Broker) -> None:
    with locked(broker.paths):
        broker.down()


def up(broker: Broker) -> None:
    with locked(broker.paths):
        broker.up()


def test_a_running_broker_is_backed_up_lost_and_restored(broker: Broker, tmp_path: Path) -> None:
    """Retained messages, the session with its queued messages, users and ACL come back; the old files are kept."""
    archive = tmp_path / "broker.tar.gz"
    manifest = json.loads(run("backup", "create", str(archive), "--json").stdout)
    assert manifest["summary"]["retained"] == RETAINED
    assert manifest["summary"]["sessions"] == 1
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert f"{RETAINED} retained messages, 1 sessions" in run("backup", "verify", str(archive)).stdout
    with operator(broker) as writer:
        for number in range(RETAINED):
            writer.publish(f"kept/{number}", b"", retain=True)
    run("user", "remove", "lamp")
    run("down")
    before = (broker.paths.root / "data/mosquitto.db").read_bytes()
    result = run("backup", "restore", str(archive))
    place = Path(result.stderr.strip().removeprefix("the old files are in "))
    assert (place / "data/mosquitto.db").read_bytes() == before
    assert stat.S_IMODE((place / "config/passwd").stat().st_mode) == 0o600
    up(broker)
    assert retained(broker) == {f"kept/{number}": b"payload %d" % number for number in range(RETAINED)}
    assert waiting(broker) == [b"waits"]
    assert login(profile_of(broker).port, "lamp", PASSWORD) == 0
    run("acl", "check", "lamp", "write", "sensors/lamp/t")


def test_the_save_is_forced_and_fresh(broker: Broker, tmp_path: Path) -> None:
    """What was published a moment ago is in the archive, though the autosave is minutes away."""
    with operator(broker) as writer:
        writer.publish("kept/new", b"fresh", retain=True)
    manifest = backup.create_backup(broker, tmp_path / "one")
    assert manifest.summary.retained == RETAINED + 1


def test_a_stopped_broker_is_backed_up_too(broker: Broker, tmp_path: Path) -> None:
    """Its database is what it wrote when it stopped."""
    run("down")
    run("backup", "create", str(tmp_path / "one"))
    assert f"{RETAINED} retained messages" in run("backup", "verify", str(tmp_path / "one")).stdout


def test_restore_under_a_running_broker_is_refused(broker: Broker, tmp_path: Path) -> None:
    """It would overwrite the file when it stops."""
    run("backup", "create", str(tmp_path / "one"))
    before = {path: path.read_bytes() for path in broker.paths.root.rglob("*") if path.is_file()}
    assert "Stop it first: mqttkit broker down" in run("backup", "restore", str(tmp_path / "one"), code=1).stderr
    assert {path: path.read_bytes() for path in broker.paths.root.rglob("*") if path.is_file()} == before


def test_a_restore_keeps_this_broker_s_own_operator(broker: Broker, tmp_path: Path) -> None:
    """The archive of a former life has another operator's password: the profile's goes in."""
    run("backup", "create", str(tmp_path / "one"))
    run("down", "--volumes", "--yes")
    start_broker(BrokerSpec(backend="process", port=0))
    run("down")
    run("backup", "restore", str(tmp_path / "one"))
    up(broker)
    assert len(retained(broker)) == RETAINED


def test_rotation_keeps_so_many(broker: Broker, tmp_path: Path) -> None:
    """FILE is the newest; without --keep a file that is there is not touched."""
    archive = tmp_path / "one"
    for _ in range(4):
        run("backup", "create", str(archive), "--keep", "3")
    assert sorted(path.name for path in tmp_path.glob("one*")) == ["one", "one.1", "one.2"]
    for name in ("one", "one.1", "one.2"):
        backup.read_archive(tmp_path / name)
    content = archive.read_bytes()
    assert "already" in run("backup", "create", str(archive), code=2).stderr
    assert archive.read_bytes() == content


def repacked(archive: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """Write the archive again with changed members."""
    with tarfile.open(archive) as old:
        files = {entry.name: old.extractfile(entry).read() for entry in old}  # type: ignore[union-attr]
    edit(files)
    path = archive.with_name("changed")
    with tarfile.open(path, "w:gz") as new:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return path


def flip(files: dict[str, bytes]) -> None:
    data = bytearray(files["data/mosquitto.db"])
    data[data.index(b"payload 7")] ^= 1
    files["data/mosquitto.db"] = bytes(data)


def cut(files: dict[str, bytes]) -> None:
    """Cut the last chunk away, at its border: mosquitto would load it without a word."""
    data, offset, last = files["data/mosquitto.db"], HEADER.size, 0
    while offset < len(data):
        last, offset = offset, offset + CHUNK.size + CHUNK.unpack_from(data, offset)[1]
    files["data/mosquitto.db"] = data[:last]


def drop_acl(files: dict[str, bytes]) -> None:
    del files["config/acl"]


def add_stranger(files: dict[str, bytes]) -> None:
    files["../../etc/cron.d/evil"] = b"x"


def break_manifest(files: dict[str, bytes]) -> None:
    files["manifest.json"] = b"{}"


def newer(files: dict[str, bytes]) -> None:
    values = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps({**values, "format": 99}).encode()


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (flip, "SHA-256 differs"),
        (cut, "SHA-256 differs"),
        (drop_acl, "differ from its manifest"),
        (add_stranger, "does not belong in a backup"),
        (break_manifest, "manifest is invalid"),
        (newer, "newer mqttkit"),
        (lambda files: files.pop("manifest.json"), "no manifest"),
    ],
)
def test_a_changed_archive_is_refused_and_nothing_is_touched(
    broker: Broker, tmp_path: Path, edit: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    """Flipped, cut, incomplete, padded, unreadable: verify and restore end with 2, the broker's files stay."""
    run("backup", "create", str(tmp_path / "one"))
    down(broker)
    before = {path: path.read_bytes() for path in broker.paths.directory.rglob("*") if path.is_file()}
    changed = repacked(tmp_path / "one", edit)
    for action in ("verify", "restore"):
        assert reason in run("backup", action, str(changed), code=2).stderr
    assert {path: path.read_bytes() for path in broker.paths.directory.rglob("*") if path.is_file()} == before


def with_true_sums(edit: Callable[[dict[str, bytes]], None], *, summary: bool) -> Callable[[dict[str, bytes]], None]:
    """Change the database and make the sums fit, and with `summary` the manifest's summary too."""

    def forge(files: dict[str, bytes]) -> None:
        edit(files)
        values = json.loads(files["manifest.json"])
        data = files["data/mosquitto.db"]
        values["files"]["data/mosquitto.db"] = hashlib.sha256(data).hexdigest()
        if summary:
            values["summary"] = vars(summarise(read_database(data)))
        files["manifest.json"] = json.dumps(values).encode()

    return forge


@pytest.mark.parametrize("edit", [flip, cut])
def test_a_database_that_was_broken_before_the_sums_is_seen_by_its_summary(
    broker: Broker, tmp_path: Path, edit: Callable[[dict[str, bytes]], None]
) -> None:
    """Sums that fit do not help: what is retained and kept must be what the manifest says."""
    run("backup", "create", str(tmp_path / "one"))
    changed = repacked(tmp_path / "one", with_true_sums(edit, summary=False))
    assert "differs from the manifest" in run("backup", "verify", str(changed), code=2).stderr


def test_what_a_broker_would_not_keep_is_seen_by_the_throwaway_broker(broker: Broker, tmp_path: Path) -> None:
    """A database whose structure is sound, and of which mosquitto drops a retained message."""
    run("backup", "create", str(tmp_path / "one"))

    def one_topic_twice(files: dict[str, bytes]) -> None:
        files["data/mosquitto.db"] = files["data/mosquitto.db"].replace(b"kept/7", b"kept/8")

    changed = repacked(tmp_path / "one", with_true_sums(one_topic_twice, summary=True))
    with pytest.raises(LifecycleError, match="a broker that loaded the backup has"):
        backup.verify_backup(changed)


@pytest.mark.parametrize("length", [0, 1, 10, 200, -1])
def test_a_cut_archive_is_refused(broker: Broker, tmp_path: Path, length: int) -> None:
    """Anywhere."""
    run("backup", "create", str(tmp_path / "one"))
    (tmp_path / "cut").write_bytes((tmp_path / "one").read_bytes()[:length])
    said = run("backup", "verify", str(tmp_path / "cut"), code=2).stderr
    assert said.startswith(f"mqttkit: {tmp_path / 'cut'}")
    assert said.count("\n") == 1


def test_a_restore_that_fails_halfway_puts_the_old_files_back(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails in the middle: nothing is changed."""
    run("backup", "create", str(tmp_path / "one"))
    with operator(broker) as writer:
        writer.publish("kept/later", b"x", retain=True)
    down(broker)
    before = {path: path.read_bytes() for path in broker.paths.root.rglob("*") if path.is_file()}
    write, calls = type(broker).write_file, []

    def failing(self: Broker, name: str, content: bytes) -> None:
        if self.spec.name == "default":
            calls.append(name)
            if len(calls) == 3:
                raise LifecycleError("disk full")
        write(self, name, content)

    monkeypatch.setattr(type(broker), "write_file", failing)
    with pytest.raises(LifecycleError, match="disk full"):
        backup.restore_backup(broker, tmp_path / "one")
    assert {path: path.read_bytes() for path in broker.paths.root.rglob("*") if path.is_file()} == before


def test_other_files_are_no_backup(broker: Broker, tmp_path: Path) -> None:
    """Missing, a directory, text, gzip of nothing, a link: one line, exit 2."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "gzip").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "link").symlink_to(tmp_path / "text")
    for name in ("missing", ".", "text", "gzip", "link"):
        said = run("backup", "verify", str(tmp_path / name), code=2).stderr
        assert (str(tmp_path / name) in said, said.count("\n")) == (True, 1)
    for place, named in ((tmp_path / "no" / "where", tmp_path / "no"), (tmp_path / "link", tmp_path / "link")):
        assert str(named) in run("backup", "create", str(place), code=2).stderr
    assert (tmp_path / "text").read_text() == "hello"


def test_a_broken_live_database_is_not_backed_up(broker: Broker, tmp_path: Path) -> None:
    """The old archive stays, exit 1."""
    down(broker)
    broker.write_file("data/mosquitto.db", b"nonsense")
    assert "damaged" in run("backup", "create", str(tmp_path / "one"), code=1).stderr
    assert not (tmp_path / "one").exists()


def test_a_restore_on_a_new_machine_brings_back_listeners_limits_and_the_authority(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` after it needs no option: the ports, the limits and the authority are those of the archive."""
    port, tls_port = str(free_port()), str(free_port())
    run("restart", "--port", port, "--tls-port", tls_port, "--max-connections", "77")
    authority = (broker.paths.authority / "ca.crt").read_bytes()
    secret = tmp_path / "passphrase"
    secret.write_text(PASSWORD)
    archive = tmp_path / "broker.tar.gz"
    words = ("--with-authority-key", "--passphrase-file", str(secret))
    shown = run("backup", "create", str(archive), *words).stdout
    assert "settings (listeners, ports, limits)" in shown
    assert "the authority's key, encrypted" in shown
    with tarfile.open(archive) as members:
        file = members.extractfile("ca/ca.key")
        assert file is not None
        assert b"ENCRYPTED PRIVATE KEY" in file.read()
    run("down")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    secret.write_text("another passphrase")
    assert "passphrase is wrong" in run("backup", "restore", str(archive), *words[1:], code=2).stderr
    secret.write_text(PASSWORD)
    run("backup", "restore", str(archive), *words[1:])
    run("up")
    new = existing_broker()
    assert (new.spec.port, new.spec.tls_port, new.spec.overrides) == (int(port), int(tls_port), {"max_connections": 77})
    assert "max_connections 77" in str(new.read_file("config/mosquitto.conf"))
    assert (new.paths.authority / "ca.crt").read_bytes() == authority
    assert "until" in run("cert", "server", "--san", "broker.example").stdout
    assert retained(new) == {f"kept/{number}": b"payload %d" % number for number in range(RETAINED)}
    run("down", "--volumes", "--yes")


def test_without_the_passphrase_everything_but_the_authority_s_key_is_restored(broker: Broker, tmp_path: Path) -> None:
    run("cert", "init")
    secret = tmp_path / "passphrase"
    secret.write_text(PASSWORD)
    archive = tmp_path / "broker.tar.gz"
    run("backup", "create", str(archive), "--with-authority-key", "--passphrase-file", str(secret))
    key = broker.paths.authority / "ca.key"
    key.unlink()
    run("down")
    assert "the authority's key was not restored" in run("backup", "restore", str(archive)).stderr
    assert not key.exists()
    assert "--with-authority-key" in run("backup", "create", "x", "--passphrase-file", str(secret), code=2).stderr


@pytest.mark.parametrize("example", ["mqttkit-broker-backup.service", "mqttkit-broker-backup.cron"])
def test_the_scheduled_backups_of_the_examples_run(broker: Broker, tmp_path: Path, example: str) -> None:
    """The commands of the systemd service and of the cron line make a verified archive and rotate it."""
    text = (Path(__file__).parents[3] / "examples/broker" / example).read_text()
    lines = re.findall(r"mqttkit broker (backup .*?)(?: >/dev/null)?$", text, re.M)
    assert lines
    for _ in range(2):
        for line in lines:
            run(*line.replace("/var/lib/mqttkit-backup", str(tmp_path)).split())
    assert sorted(path.name for path in tmp_path.glob("*.backup*")) == ["default.backup", "default.backup.1"]
