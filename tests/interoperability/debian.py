"""Debian's archive as this machine's apt knows it: sources of packages, and a chroot with Debian sid."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.sid import ROOT, mirror, prepare

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INSTALL_SECONDS = 1_200


class NotInstalled(Exception):
    """Something cannot be installed here; the text says why."""


def fetch_source(package: str, suite: str, directory: Path) -> Path:
    """Download the source of a package and unpack the upstream part; return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    unpacked = next(iter(directory.glob("upstream/*")), None)
    if unpacked is not None:
        return unpacked
    (directory / "one.list").write_text(f"deb-src [signed-by={KEYRING}] {mirror()} {suite} main\n")
    (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    places = {"Dir::Etc::SourceList": directory / "one.list", "Dir::Etc::SourceParts": "/nonexistent"}
    places |= {"Dir::State::Lists": directory / "lists", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": ""}
    options = [word for key, value in places.items() for word in ("-o", f"{key}={value}")]
    options += ["-o", "APT::Sandbox::User=root"]
    run(["apt-get", "-qq", *options, "update"], directory)
    run(["apt-get", "-qq", *options, "--download-only", "source", package], directory)
    tar = next(iter(directory.glob("*.orig.tar.*")), None)
    if tar is None:
        raise NotInstalled(f"apt-get brought no source of {package}")
    (directory / "upstream").mkdir()
    run(["tar", "--extract", "--file", str(tar), "--directory", str(directory / "upstream")], directory)
    return next(iter(directory.glob("upstream/*")))


def run(command: list[str], directory: Path | None = None, seconds: float = INSTALL_SECONDS) -> None:
    """Run a command; raise NotInstalled with the end of what it printed if it fails."""
    if shutil.which(command[0]) is None:
        raise NotInstalled(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        last = (done.stderr or done.stdout).strip()[-300:]
        raise NotInstalled(f"{' '.join(command[:3])} … failed: {last}")


class Sid:
    """The chroot of `make sid`, with further packages: brokers that are newer than those of this machine."""

    def __init__(self) -> None:
        """Make the chroot unless it is there; raise NotInstalled."""
        problem = prepare()
        if problem:
            raise NotInstalled(problem)
        self.root = ROOT
        policy = self.root / "usr/sbin/policy-rc.d"
        if not policy.exists():
            for name in ("resolv.conf", "hosts"):
                shutil.copy(f"/etc/{name}", self.root / "etc")
            policy.write_text("#!/bin/sh\nexit 101\n")  # packages must not start their daemons
            policy.chmod(0o755)

    def install(self, *packages: str) -> None:
        """Install packages unless they are there; raise NotInstalled."""
        missing = [name for name in packages if not list(self.root.glob(f"var/lib/dpkg/info/{name}[.:]*list"))]
        if missing:
            run(self.command("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing))

    def command(self, *words: str, bind: tuple[Path, str] | None = None) -> list[str]:
        """Return the command that runs `words` in the chroot; only it sees /proc and the bound directory there."""
        mounts = f"mount -t proc proc {self.root}/proc"
        if bind is not None:
            mounts += f" && mount --bind {bind[0]} {self.root}{bind[1]}"
        inside = f'{mounts} && exec chroot {self.root} "$@"'
        return ["unshare", "--mount", "sh", "-c", inside, "sh", *words]

    def place(self, directory: Path) -> str:
        """Return the path under which `bound` commands see a directory of this machine."""
        inside = f"/interoperability/{directory.name}"
        (self.root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return inside

    def bound(self, directory: Path, words: list[str]) -> list[str]:
        """Return the command that runs `words` in the chroot, in a directory of this machine."""
        place = self.place(directory)
        return self.command("sh", "-c", f'cd {place} && exec "$@"', "sh", *words, bind=(directory, place))

    def outside(self, program: str) -> list[str]:
        """Return the command that runs a program of the chroot with its own libraries, in this machine's file tree."""
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        return [
            str(self.root / "lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            str(libraries),
            f"{self.root}{program}",
        ]

    def version(self, package: str) -> str:
        """Return the version of an installed package, without Debian's part."""
        command = ["dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "-W", "-f", "${Version}", package]
        text = subprocess.run(command, capture_output=True, text=True).stdout
        return re.sub(r"[-+].*", "", text.split(":")[-1])
