"""What `up` stores for later commands: the broker's directories, its settings, and how to log in."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqttkit.addresses import is_loopback
from mqttkit.broker.json_file import parse_object, read_object
from mqttkit.directories import state_directory
from mqttkit.errors import LifecycleError, UsageError
from mqttkit.files import SECRET_MODE, write_secret
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, TlsSettings

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
LOOPBACK = "127.0.0.1"
LOCK_SECONDS = 60.0
TUNING_PROFILES = ("small", "default", "high-traffic")


@dataclass(frozen=True, kw_only=True)
class BrokerSpec:
    """The settings of a broker, without secrets; stored beside the profile for `restart`."""

    name: str = "default"
    """Name of the broker on this machine."""
    backend: str = "auto"
    """`auto`, `docker`, `process` or `embedded`."""
    listen: str = "127.0.0.1"
    """Address of the listeners; if one of them speaks TLS, MQTT without TLS stays on loopback."""
    port: int = 1883
    """TCP port of the MQTT listener; 0 picks a free port."""
    plain: bool = True
    """Listen without TLS too; otherwise mqttkit itself uses the TLS listener."""
    websocket_port: int | None = None
    """TCP port of the WebSocket listener; 0 disables it, None is the backend's default (docker 9001, others none)."""
    tls_port: int | None = None
    """TCP port of the TLS listener; None and 0 disable it."""
    websocket_tls: bool = False
    """The WebSocket listener speaks TLS (wss), with the same certificate."""
    client_certificates: bool = False
    """Listeners with TLS require a client certificate."""
    certificate_users: bool = False
    """The common name of a client certificate is the user: no password is needed."""
    image: str | None = None
    """Docker image; None is the pinned one."""
    network: str | None = None
    """Docker network that the container joins, so that other containers reach it by its name."""
    anonymous: bool = False
    """Clients without a user name may connect."""
    allow_remote_anonymous: bool = False
    """They may connect even if `listen` is not a loopback address."""
    tuning: str = "default"
    """Tuning profile: `small`, `default` or `high-traffic`."""
    overrides: Mapping[str, int | bool] = field(default_factory=dict)
    """Tuning settings that differ from the tuning profile, by name."""
    log_types: tuple[str, ...] = ()
    """What the broker logs besides errors, warnings and connections, such as `debug` for denied publishes."""
    automatic_ports: tuple[str, ...] = ()
    """Ports that mqttkit chose, such as `websocket_port`: it chooses others if they are taken."""
    temporary: bool = False
    """The broker ends with the process that started it."""

    def __post_init__(self) -> None:
        for name in ("automatic_ports", "log_types"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only

    @property
    def tls(self) -> bool:
        """Whether any listener speaks TLS."""
        return bool(self.tls_port or self.websocket_tls)

    @property
    def plain_listen(self) -> str:
        """Address of the MQTT listener without TLS: loopback if another listener speaks TLS."""
        return LOOPBACK if self.tls and not is_loopback(self.listen) else self.listen

    @property
    def ports(self) -> dict[str, int]:
        """Port of each listener by its field, such as `tls_port`; 0 for one that mqttkit still has to choose."""
        found = {"websocket_port": self.websocket_port or 0, "tls_port": self.tls_port or 0}
        return {**({"port": self.port} if self.plain else {}), **{name: port for name, port in found.items() if port}}

    def address_of(self, port_name: str) -> str:
        """Return the address of a listener by the name of its port, such as `tls_port`."""
        return self.plain_listen if port_name == "port" else self.listen

    def with_backend(self, backend: str) -> BrokerSpec:
        """Return a copy with this backend."""
        return dataclasses.replace(self, backend=backend)

    def check(self) -> None:
        """Raise `UsageError` if these settings cannot work or are not safe."""
        check_name(self.name)
        ports = [port for port in self.ports.values() if port]
        for port in ports:
            if not 1 <= port <= 65_535:
                raise UsageError(f"port must be 1 to 65535, got {port}")
        if len(set(ports)) != len(ports):
            raise UsageError(f"two listeners cannot share a port: {', '.join(map(str, sorted(ports)))}")
        if self.websocket_tls and not self.websocket_port:
            raise UsageError("--websocket-tls needs --websocket-port")
        if not self.plain:
            self._check_without_plain()
        if self.client_certificates and not self.tls:
            raise UsageError("--client-certificates needs a listener with TLS", hint="Add --tls-port 8883")
        if self.network and self.backend in ("process", "embedded"):
            raise UsageError(f"--network needs the docker backend, not {self.backend}")
        if self.certificate_users and not self.client_certificates:
            raise UsageError("--certificate-users needs --client-certificates")
        if self.anonymous and not self.allow_remote_anonymous and not is_loopback(self.listen):
            raise UsageError(
                f"--anonymous on {self.listen} would open the broker to the network",
                hint="Drop --anonymous, or add --allow-remote-anonymous if you want that",
            )

    def _check_without_plain(self) -> None:
        if not self.tls_port:
            raise UsageError("--no-plain needs a TLS listener", hint="Add --tls-port 8883")
        if self.websocket_port and not self.websocket_tls:
            raise UsageError("--no-plain needs TLS for WebSockets too", hint="Add --websocket-tls")
        if self.client_certificates:
            raise UsageError(
                "--no-plain is not possible with --client-certificates: mqttkit's own commands have no certificate",
                hint="Drop --no-plain; the listener without TLS is on loopback only",
            )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How to reach a broker that `up` started, and how to log in. It contains secrets: its file has mode 0600."""

    name: str
    """Name of the broker."""
    backend: str
    """Backend that runs the broker."""
    host: str
    """Address to connect to."""
    port: int
    """TCP port to connect to."""
    plain: bool = True
    """Whether that port speaks MQTT without TLS; otherwise it is the TLS port."""
    version: str = "auto"
    """MQTT version to speak on that port: `auto`, `5` or `311`."""
    username: str | None = None
    """User name of the operator; None if the broker has no users."""
    password: str | None = field(default=None, repr=False)
    """Password of the operator."""
    probe_username: str | None = None
    """User name of health checks and canaries; it may use only `mqttkit/probe/#`."""
    probe_password: str | None = field(default=None, repr=False)
    """Password of that user."""
    v5_port: int | None = None
    """Port of MQTT 5 if that has a separate port."""
    websocket_port: int | None = None
    """Port of the WebSocket listener."""
    tls_port: int | None = None
    """Port of the TLS listener."""
    websocket_tls: bool = False
    """Whether the WebSocket listener speaks TLS."""
    other_host: str | None = None
    """Address of the WebSocket and TLS listeners if it is not `host`."""
    ca_file: str | None = None
    """PEM file of the authority that signed the TLS listener's certificate."""
    image: str | None = None
    """Docker image with its digest."""

    def to_broker_settings(self) -> BrokerSettings:
        """Return the client's settings for the plain listener, or for the TLS listener if it is the only one."""
        tls = None if self.plain else TlsSettings(ca_file=self.ca_file)
        return BrokerSettings(host=self.host, port=self.port, username=self.username, password=self.password, tls=tls)

    @property
    def settings(self) -> MqttSettings:
        """The settings of a client: `mqttkit.connect(profile.settings)`."""
        return MqttSettings(broker=self.to_broker_settings(), client=ClientSettings(version=self.version))

    def to_tls_settings(self) -> BrokerSettings:
        """Return the client's settings for the TLS listener; raise `LifecycleError` if there is none."""
        if self.tls_port is None:
            raise LifecycleError(f"broker {self.name!r} has no TLS listener")
        plain = self.to_broker_settings()
        host = self.other_host or self.host
        return dataclasses.replace(plain, host=host, port=self.tls_port, tls=TlsSettings(ca_file=self.ca_file))

    def further_listeners(self) -> list[dict[str, object]]:
        """Return how each other listener differs from `to_broker_settings`, by dotted path of the settings."""
        tls = {"mqtt.broker.tls": TlsSettings(ca_file=self.ca_file)}
        host = {"mqtt.broker.host": self.other_host} if self.other_host else {}
        found: list[dict[str, object]] = []
        if self.v5_port:
            found.append({"mqtt.broker.port": self.v5_port, "mqtt.client.version": "5"})
        if self.tls_port and self.plain:
            found.append({"mqtt.broker.port": self.tls_port, **tls, **host})
        if self.websocket_port:
            web = {"mqtt.broker.port": self.websocket_port, "mqtt.broker.transport": "websockets"}
            found.append({**web, **(tls if self.websocket_tls else {}), **host})
        return found


@dataclass(frozen=True)
class BrokerPaths:
    """The directories and files of a broker.

    directory/profile.json   for the operator only, mode 0600: the broker cannot read it
    directory/broker.json    the BrokerSpec
    directory/pid.json       process and embedded: pid and start time
    directory/broker.log     process and embedded
    directory/last-backup.json  path and time of the last backup
    directory/ca/            the authority's key: the broker cannot read it
    directory/root/          the broker's files, as /mosquitto in the image:
                             config/{mosquitto.conf,passwd,acl,certs/} and data/
    """

    directory: Path

    @classmethod
    def of(cls, name: str) -> BrokerPaths:
        """Return the paths of the broker with this name in the user's state directory."""
        check_name(name)
        return cls(brokers_directory() / name)

    @property
    def profile(self) -> Path:
        """The file of the profile."""
        return self.directory / "profile.json"

    @property
    def spec(self) -> Path:
        """The file of the BrokerSpec."""
        return self.directory / "broker.json"

    @property
    def pid(self) -> Path:
        """The file of process id and start time."""
        return self.directory / "pid.json"

    @property
    def log(self) -> Path:
        """The log of a broker that runs as a process."""
        return self.directory / "broker.log"

    @property
    def last_backup(self) -> Path:
        """The file that names the last backup and its time."""
        return self.directory / "last-backup.json"

    @property
    def bridges(self) -> Path:
        """The file of its connections to other brokers."""
        return self.directory / "bridges.json"

    @property
    def authority(self) -> Path:
        """The certificate authority's directory."""
        return self.directory / "ca"

    @property
    def root(self) -> Path:
        """The broker's own directory."""
        return self.directory / "root"


def brokers_directory() -> Path:
    """Return the directory of all brokers of this user."""
    return state_directory() / "brokers"


def broker_names() -> list[str]:
    """Return the names of the brokers that `up` created."""
    directory = brokers_directory()
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if (entry / "broker.json").is_file())


def check_name(name: str) -> None:
    """Raise `UsageError` if a broker cannot have this name."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a broker cannot have the name {name!r}",
            hint="Use 1 to 48 letters, digits, '-', '_' or '.', beginning with a letter or digit",
        )


def load_profile(name: str = "default") -> Profile | None:
    """Return the profile that `up` wrote, or None; raise `LifecycleError` if it cannot be read."""
    return read_profile(BrokerPaths.of(name))


def read_profile(paths: BrokerPaths) -> Profile | None:
    """Return the profile in this directory, or None; repair a file that other users may read."""
    _make_private(paths.profile)
    values = read_object(paths.profile)
    return None if values is None else _build(Profile, values, paths.profile)


def _make_private(path: Path) -> None:
    """Take a secret file from other users, and warn; they may have read it."""
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            path.chmod(SECRET_MODE)
            log.warning(
                "%s had mode %04o, so that other users could read its passwords; it is private again. "
                "Change them with: mqttkit broker user passwd mqttkit --generate",
                path,
                stat.S_IMODE(mode),
            )


def save_profile(paths: BrokerPaths, profile: Profile) -> None:
    """Write the profile, mode 0600."""
    write_secret(paths.profile, _to_json(profile))


def load_spec(paths: BrokerPaths) -> BrokerSpec | None:
    """Return the stored settings of the broker, or None if `up` never created it."""
    values = read_object(paths.spec)
    return None if values is None else _build(BrokerSpec, values, paths.spec)


def save_spec(paths: BrokerPaths, spec: BrokerSpec) -> None:
    """Store the settings of the broker."""
    write_secret(paths.spec, _to_json(spec))


def spec_json(spec: BrokerSpec) -> bytes:
    """Return the settings as JSON, as `save_spec` stores them."""
    return _to_json(spec)


def parse_spec(content: bytes, *, where: str) -> BrokerSpec:
    """Return the settings in the JSON of `spec_json`; raise LifecycleError."""
    spec: BrokerSpec = _build(BrokerSpec, parse_object(content, where), where)
    return spec


@contextlib.contextmanager
def locked(paths: BrokerPaths) -> Iterator[None]:
    """Lock the broker's directory against other mqttkit commands; create it if it is missing."""
    deadline = time.monotonic() + LOCK_SECONDS
    descriptor = _lock_directory(paths.directory)
    while descriptor is None:
        if time.monotonic() > deadline:
            raise LifecycleError(f"another command is working on the broker in {paths.directory}")
        time.sleep(0.05)
        descriptor = _lock_directory(paths.directory)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            paths.directory.rmdir()  # before the release: no other command may lock a removed directory
        os.close(descriptor)


def _lock_directory(directory: Path) -> int | None:
    """Return the descriptor of the locked directory, or None if another command holds it or just removed it."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, FileExistsError):  # mkdir raises the latter if the directory disappears meanwhile
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == directory.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _to_json(value: Profile | BrokerSpec) -> bytes:
    return (json.dumps(dataclasses.asdict(value), indent=2) + "\n").encode()


def _build(kind: type[Any], values: dict[str, Any], path: Path | str) -> Any:
    """Build a dataclass from JSON; ignore keys of a newer version."""
    known = {entry.name for entry in dataclasses.fields(kind)}
    try:
        return kind(**{key: value for key, value in values.items() if key in known})
    except TypeError as error:
        raise LifecycleError(f"{path} is not valid: {error}") from error
