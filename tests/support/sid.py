"""mosquitto 2.1 and Redis 8 from Debian sid, for the tests that need newer servers than the machine's.

`make sid` prepares it once (about a minute, 400 MB): `python -m tests.support.sid`. Without it those tests skip.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.docker import IMAGE, run

ROOT = Path("/var/cache/mqttkit-tests/sid")
"""The system; its files are readable for the broker's user, which a root's home directory is not."""
READY = ROOT / "usr/mqttkit/ready"
PROGRAMS = ROOT / "usr/mqttkit"
"""Directory of scripts that run sid's programs with sid's libraries on this machine."""
PACKAGES = ("mosquitto", "mosquitto-clients", "redis-server")
WRAPPED = (
    "usr/sbin/mosquitto",
    "usr/bin/mosquitto_passwd",
    "usr/bin/mosquitto_pub",
    "usr/bin/mosquitto_sub",
    "usr/bin/redis-server",
)
PLUGINS = "*-linux-gnu/mosquitto/*_file.so"
SCRIPT = """\
#!/bin/sh
for loader in {root}/lib64/ld-linux-x86-64.so.2 {root}/lib/ld-linux-aarch64.so.1; do
    [ -e "$loader" ] && exec "$loader" --library-path "$(echo {root}/usr/lib/*-linux-gnu)" {root}/{program} "$@"
done
"""


def sid_programs(program: str = "mosquitto") -> Path:
    """Return the directory with `mosquitto` 2.1, its tools and `redis-server` 8; skip the test without `program`."""
    if not READY.exists() or not (PROGRAMS / program).exists():
        pytest.skip(f"no {program} from Debian sid: prepare it with `make sid`")
    return PROGRAMS


def sid_image(address: str) -> str:
    """Return the name of an image with sid's mosquitto, and build it on the offline image unless the engine has it.

    Skips the test if `make sid` has not run.
    """
    sid_programs()
    version = run(["chroot", str(ROOT), "dpkg-query", "--show", "--showformat", "${Version}", "mosquitto"])
    version = version.partition("-")[0]
    tag = f"mqttkit/mosquitto-sid:{version}"
    if run(["docker", "images", "--quiet", tag], DOCKER_HOST=address).strip():
        return tag
    with tempfile.TemporaryDirectory(prefix="mqttkit-sid-") as place:
        root = Path(place) / "root"
        for file in _image_files():
            target = root / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file.relative_to("/"), target)
        (Path(place) / "Dockerfile").write_text(f"FROM {IMAGE}\nENV VERSION={version}\nCOPY root/ /\n")
        run(["docker", "build", "--quiet", "--tag", tag, place], DOCKER_HOST=address)
    return tag


def _image_files() -> set[Path]:
    """Return mosquitto's programs and plugins, and the libraries that they load, as paths in the system."""
    plugins = [f"usr/lib/{file.parent.parent.name}/mosquitto/{file.name}" for file in ROOT.glob(f"usr/lib/{PLUGINS}")]
    programs = [f"usr/{place}" for place in ("sbin/mosquitto", "bin/mosquitto_passwd", "bin/mosquitto_rr")] + plugins
    listed = run(["chroot", str(ROOT), "ldd", *(f"/{program}" for program in programs)])
    libraries = re.findall(r"(/\S+) \(0x", listed)
    return {Path("/usr", path.removeprefix("/").removeprefix("usr/")) for path in (*programs, *libraries)}


def prepare() -> str:
    """Install the packages into ROOT unless it exists; return why that is not possible, or an empty string."""
    if os.geteuid() != 0:
        return "only root can run debootstrap"
    if shutil.which("debootstrap") is None:
        return "debootstrap is missing: apt-get install debootstrap"
    ROOT.parent.mkdir(parents=True, exist_ok=True)
    with (ROOT.parent / "sid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if READY.exists() and all((PROGRAMS / Path(program).name).exists() for program in WRAPPED):
            return ""
        shutil.rmtree(ROOT, ignore_errors=True)
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        done = subprocess.run(["debootstrap", *options, "sid", str(ROOT), mirror()], check=False)
        if done.returncode:
            return f"debootstrap ended with {done.returncode}"
        PROGRAMS.mkdir()
        for program in WRAPPED:
            script = PROGRAMS / Path(program).name
            script.write_text(SCRIPT.format(root=ROOT, program=program))
            script.chmod(0o755)
        READY.touch()
    return ""


def mirror() -> str:
    """Return the mirror of this machine's apt that has the distribution itself."""
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages", "Origin: Debian"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    sites = [line.split()[0] for line in lines if "-security" not in line]
    if not sites:
        raise SystemExit("apt has no mirror of Debian: run apt-get update")
    return sites[0]


if __name__ == "__main__":
    sys.exit(prepare())
