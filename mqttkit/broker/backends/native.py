"""A native mosquitto as a process of its own."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import signal
import subprocess
import time

from mqttkit.broker.accounts.initial_acl import acl_for_start
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.backends.local_process import READY_SECONDS, SPARE_DESCRIPTORS, LocalBroker
from mqttkit.broker.certificates.initial_certificate import first_certificate
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.mosquitto.configuration import Listener
from mqttkit.broker.mosquitto.operator_profile import mosquitto_profile
from mqttkit.broker.ports import listening_inodes, numeric
from mqttkit.broker.profile import Profile
from mqttkit.errors import LifecycleError, MissingPart

SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where Debian puts mosquitto: not in a user's PATH."""
SERVICE_USERS = ("mosquitto", "nobody")
"""Users that root's broker runs as, in order of preference."""
INSTALL = "Install it with: apt-get install mosquitto"


def find_mosquitto() -> str | None:
    """Return the path of the mosquitto program, or None."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATHS)))


@functools.cache
def mosquitto_version(program: str) -> tuple[int, ...]:
    """Return a mosquitto program's version; raise `LifecycleError` where it tells none."""
    try:
        text = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LifecycleError(f"{program} cannot be run: {error}") from error
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise LifecycleError(f"{program} -h tells no version")
    return tuple(int(part) for part in found.groups())


class ProcessBroker(LocalBroker):
    """mosquitto, with users, ACL, TLS, WebSockets, reload, statistics and persistence."""

    backend = "process"

    @classmethod
    def unusable(cls) -> str:
        """Return why there can be no native mosquitto here, or an empty string."""
        return "" if find_mosquitto() else "mosquitto is not installed"

    def version(self) -> tuple[int, ...]:
        """Return the version of the installed mosquitto."""
        return mosquitto_version(self._program())

    def _program(self) -> str:
        program = find_mosquitto()
        if program is None:
            raise MissingPart("mosquitto is not installed", hint=INSTALL)
        return program

    def _command(self) -> list[str]:
        command = [self._program(), "-c", "config/mosquitto.conf"]
        if self.spec.temporary and shutil.which("setpriv"):
            return ["setpriv", "--pdeathsig", "TERM", *command]
        return command

    def _owns(self, arguments: list[str]) -> bool:
        return any(argument.endswith("/mosquitto") for argument in arguments[:1])

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        for name in SERVICE_USERS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return entry.pw_uid, entry.pw_gid
        raise MissingPart("no user for the broker to run as", hint="Add one with: useradd --system mosquitto")

    def _descriptors(self) -> int:
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        return settings.max_connections + SPARE_DESCRIPTORS

    def _prepare(self, profile: Profile | None) -> Profile:
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        text = configuration.mosquitto_conf(
            self.listeners(), settings, version=self.version(), anonymous=self.spec.anonymous
        )
        profile = mosquitto_profile(self.spec, self.paths, profile, backend=self.backend)
        self._directory(self.paths.root / "data")
        self.write_file("config/mosquitto.conf", text.encode())
        self._write_own_users(profile)
        if self.spec.tls and self.read_file("config/certs/server.crt") is None:
            for name, content in first_certificate(self.spec, self.paths.authority).items():
                self.write_file(name, content)
        before = self.read_file("config/acl")
        rules = acl_for_start(before, anonymous=self.spec.anonymous)
        if rules != before:
            self.write_file("config/acl", rules)
        return profile

    def _write_own_users(self, profile: Profile) -> None:
        """Give the operator and the probe the profile's passwords where the password file has others or none."""
        users = before = PasswordFile.parse((self.read_file("config/passwd") or b"").decode(), where="config/passwd")
        own = ((profile.username, profile.password), (profile.probe_username, profile.probe_password))
        for user, password in own:
            if user and password and not users.verify(user, password):
                users = users.with_user(user, password)
        if users is not before:
            self.write_file("config/passwd", users.render().encode())

    def listeners(self) -> list[Listener]:
        """Return the listeners that the settings ask for."""
        spec = self.spec
        bind = numeric(spec.listen)
        found = [Listener(port=spec.port, bind=bind)]
        if spec.websocket_port:
            found.append(
                Listener(
                    port=spec.websocket_port,
                    bind=bind,
                    websockets=True,
                    tls=spec.websocket_tls,
                    client_certificates=spec.websocket_tls and spec.client_certificates,
                )
            )
        if spec.tls_port:
            found.append(
                Listener(
                    port=spec.tls_port,
                    bind=bind,
                    tls=True,
                    client_certificates=spec.client_certificates,
                )
            )
        return found

    def _prove(self) -> None:
        """Demand that every listener listens, and a save."""
        for listener in self.listeners():
            if not listening_inodes(listener.port):
                raise LifecycleError(
                    f"the broker does not listen on {listener.bind}:{listener.port}: {self._last_error()}"
                )
        self._prove_save()

    def _prove_save(self) -> None:
        """Demand a save: a data directory that cannot be written shows only at the first one."""
        if not configuration.tuning(self.spec.tuning, self.spec.overrides).persistence:
            return
        database = self.paths.root / "data" / "mosquitto.db"
        before = database.stat().st_ino if database.exists() else None
        os.kill(self._require_running().pid, signal.SIGUSR1)
        deadline = time.monotonic() + READY_SECONDS
        while not database.exists() or database.stat().st_ino == before:
            if time.monotonic() > deadline:
                raise LifecycleError(
                    f"the broker cannot save to {database.parent}: {self._last_error()}",
                    hint=f"See: mqttkit broker logs --name {self.spec.name}",
                )
            time.sleep(0.02)

    def _last_error(self) -> str:
        errors = [line for line in self.log_lines(tail=50) if "Error" in line]
        return errors[-1] if errors else "no error in its log"
