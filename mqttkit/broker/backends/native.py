"""The installed mosquitto, as a separate process."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from mqttkit.broker.accounts.initial_files import acl_for_start, passwords_for_start
from mqttkit.broker.accounts.operator_profile import mosquitto_profile
from mqttkit.broker.backends.local_process import READY_SECONDS, SPARE_DESCRIPTORS, LocalBroker
from mqttkit.broker.certificates.initial_certificate import has_revocations, missing_certificates
from mqttkit.broker.file_names import ACL_FILE, CONFIGURATION_FILE, PASSWORD_FILE
from mqttkit.broker.live.losses import report_losses
from mqttkit.broker.live.save import save_database
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.mosquitto.bridge_connections import bridge_files, bridge_section, load_bridges
from mqttkit.broker.mosquitto.configuration import Listener
from mqttkit.broker.ports import listening_inodes, numeric
from mqttkit.broker.profile import Profile
from mqttkit.errors import LifecycleError, MissingPart, PermissionMissing, reason_of

SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
"""Debian installs mosquitto here, which is not in a user's PATH."""
SERVICE_USERS = ("mosquitto", "nobody")
"""Users that a broker of root runs as, in order of preference."""
UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
INSTALL = "Install it with: apt-get install mosquitto"


def find_mosquitto() -> str | None:
    """Return the path of the mosquitto program, or None."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATHS)))


@functools.cache
def mosquitto_version(program: str) -> tuple[int, ...]:
    """Return a mosquitto program's version; raise `LifecycleError` if it prints none."""
    try:
        text = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LifecycleError(f"{program} cannot run: {reason_of(error)}") from error
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise LifecycleError(f"{program} -h prints no version")
    return tuple(int(part) for part in found.groups())


def plugin_directory(program: Path) -> str | None:
    """Return the directory of the plugins that came with a mosquitto, such as /usr/lib/x86_64-linux-gnu/mosquitto.

    It is below the same prefix as the program. Return None if it is not found.
    """
    prefix = program.resolve().parents[1]
    for pattern in ("lib/*/mosquitto", "lib/mosquitto", "lib64/mosquitto", "lib", "lib64"):
        for place in sorted(prefix.glob(pattern)):
            if all((place / name).is_file() for name in configuration.PLUGIN_FILES):
                return str(place)
    return None


class ProcessBroker(LocalBroker):
    """mosquitto, with users, ACL, TLS, WebSockets, reload, statistics and persistence."""

    backend = "process"

    @classmethod
    def unusable(cls) -> str:
        """Return why this machine cannot run mosquitto, or an empty string."""
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
        command = [self._program(), "-c", CONFIGURATION_FILE]
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
        self._require_ports_above(UNPRIVILEGED)
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        if profile is not None:
            report_losses(self.read_file, self.write_file, settings=settings)
        profile = mosquitto_profile(self.spec, self.paths, profile, backend=self.backend)
        self.files.make("data")
        certificates = missing_certificates(self.spec, self.paths.authority, self.read_file)
        for name, content in {**certificates, **bridge_files(self.paths)}.items():
            self.write_file(name, content)
        self.write_file(CONFIGURATION_FILE, self.configuration().encode())
        passwords, acl = self.read_file(PASSWORD_FILE), self.read_file(ACL_FILE)
        for name, before, after in (
            (PASSWORD_FILE, passwords, passwords_for_start(passwords, profile)),
            (ACL_FILE, acl, acl_for_start(acl, anonymous=self.spec.anonymous)),
        ):
            if after != before:
                self.write_file(name, after)
        return profile

    def _require_ports_above(self, least: Path) -> None:
        """Raise PermissionMissing for a port on which the broker's user, which is not root, may not listen."""
        owner = self._owner()
        lowest = int(least.read_text()) if least.exists() else 1024
        for listener in self.listeners():
            if owner is not None and owner[0] != 0 and listener.port < lowest:
                raise PermissionMissing(
                    f"port {listener.port} needs root, but the broker runs as {pwd.getpwuid(owner[0]).pw_name}",
                    hint=f"Choose a port of {lowest} or above, or: mqttkit broker up --backend docker",
                )

    def configuration(self) -> str:
        """Return mosquitto.conf."""
        settings = configuration.tuning(self.spec.tuning, self.spec.overrides)
        text = configuration.mosquitto_conf(
            self.listeners(),
            settings,
            version=self.version(),
            anonymous=self.spec.anonymous,
            log_types=self.spec.log_types,
            revocations=has_revocations(self.spec, self.paths.authority, self.read_file),
            plugins=plugin_directory(Path(self._program())),
        )
        return text + bridge_section(load_bridges(self.paths))

    def listeners(self) -> list[Listener]:
        """Return the listeners that the settings ask for."""
        spec = self.spec
        return configuration.build_listeners(
            spec,
            plain=numeric(spec.plain_listen) if spec.plain else None,
            bind=numeric(spec.listen),
            port=spec.port,
            websocket_port=spec.websocket_port,
            tls_port=spec.tls_port,
        )

    def _prove(self) -> None:
        """Require that every listener listens, and that the broker can save its database.

        A data directory that the broker cannot write to causes no error before the first save.
        """
        for listener in self.listeners():
            if not listening_inodes(listener.port):
                raise LifecycleError(
                    f"the broker does not listen on {listener.bind}:{listener.port}: {self._last_error()}"
                )
        if configuration.tuning(self.spec.tuning, self.spec.overrides).persistence:
            save_database(self, seconds=READY_SECONDS)

    def _last_error(self) -> str:
        errors = [line for line in self.log_lines(tail=50) if "Error" in line]
        return errors[-1] if errors else "no error in its log"
