"""Checks of the machine: the broker's user, limits, memory, disk, and what restarts it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from mqttkit.broker.backends.local_process import SPARE_DESCRIPTORS
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.broker.file_names import CONFIGURATION_FILE
from mqttkit.broker.json_file import read_object
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.protocol import LACKS, Feature, Resources
from mqttkit.broker.statistics import StatisticsWatcher

CONNECTION_BYTES = 8 * 1024
"""Memory of one idle connection, rounded up: 3 to 6 KiB were measured with mosquitto 2.0."""
MIB = 1024 * 1024
LEAST_FREE = 100 * MIB
LOW_FREE = 0.1
LATE = 2
"""A save is late after this many autosave intervals."""
SLACK_SECONDS = 60
BACKUP_DAYS, DAY = 8, 86_400
"""An older backup is a warning, so that a weekly one is not."""
MEMORY_SYSTEMS = ("tmpfs", "ramfs")


def user(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the user of the broker's process."""
    status = Path(f"/proc/{examined.running.pid}/status").read_text()
    uid = int(_field(status, r"^Uid:\s+\d+\s+(\d+)"))
    if uid == 0:
        yield failed("it runs as root", examined.restart)
    else:
        yield passed(f"it runs as uid {uid}")


def descriptors(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare the process's limit of open files with max_connections of each listener."""
    limits = Path(f"/proc/{examined.running.pid}/limits").read_text()
    found = _field(limits, r"^Max open files\s+(\S+)")
    if found == "unlimited":
        yield warned("the limit is infinite, and WebSockets do not work with that", examined.restart)
        return
    wanted = _tuning(examined).max_connections + SPARE_DESCRIPTORS
    if LACKS[examined.broker.backend].get(Feature.TUNING):
        wanted = SPARE_DESCRIPTORS
    if int(found) < wanted:
        smaller = max(1, int(found) - SPARE_DESCRIPTORS)
        yield failed(
            f"it may open {found} files, but max_connections needs {wanted}",
            f"mqttkit broker restart --max-connections {smaller}{examined.name_option}, or raise `ulimit -Hn`",
        )
    else:
        yield passed(f"it may open {found} files and needs {wanted}")


def memory(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare its memory, now and with max_connections clients, with its limit or the machine's memory."""
    used = examined.broker.resources()
    if used is None:
        yield not_checked("this user cannot see its memory")
        return
    limit = _memory_limit(used)
    full = used.memory_bytes + _tuning(examined).max_connections * CONNECTION_BYTES
    numbers = f"uses {used.memory_bytes // MIB} MiB of {limit // MIB} MiB"
    fix = f"mqttkit broker restart --profile small{examined.name_option}"
    if used.memory_bytes > 0.95 * limit:
        yield failed(numbers, fix)
    elif full > limit:
        yield warned(f"{numbers}; with max_connections clients about {full // MIB} MiB", fix)
    else:
        yield passed(f"{numbers}, about {full // MIB} MiB with max_connections clients")


def queues(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare the full queues of the clients that are away with the memory that is left."""
    used, settings = examined.broker.resources(), _tuning(examined)
    if used is None:
        yield not_checked("this user cannot see its memory")
        return
    with StatisticsWatcher(examined.profile) as watcher:
        now = next(watcher.updates())
    absent, each = max(0, now.clients_total - now.clients_connected), settings.max_queued_bytes
    spare = max(0, _memory_limit(used) - used.memory_bytes)
    if absent * each > spare:
        fitting = max(configuration.LIMITS["max_queued_bytes"][0], spare // absent // 2)
        yield warned(
            f"{absent} clients are away and may queue {each / MIB:g} MiB each, but only {spare // MIB} MiB are left",
            f"mqttkit broker restart --max-queued-bytes {fitting}{examined.name_option}",
        )
    else:
        yield passed(f"{absent} clients are away; the memory is enough for the full queues of {spare // each:,}")


def sessions(examined: ExaminedBroker) -> Iterator[Result]:
    """Read when the session of a client that never returns ends."""
    text = (examined.broker.read_file(CONFIGURATION_FILE) or b"").decode(errors="replace")
    found = re.search(r"^persistent_client_expiration (\S+)", text, re.M)
    if found is None:
        yield warned("sessions of clients that never return stay forever, with their queues", examined.restart)
    else:
        yield passed(f"the session of a client that is away ends after {found[1]}")


def health(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the result of the container's health check, which logs in and sends a message to itself."""
    if examined.broker.backend != "docker":
        yield not_checked(f"the {examined.broker.backend} backend has no health check")
    elif examined.running.health in ("healthy", "starting"):
        yield passed(f"its health check says {examined.running.health!r}")
    else:
        name = f"mqttkit-{examined.broker.spec.name}"
        fix = f"docker inspect --format '{{{{json .State.Health}}}}' {name}, then: {examined.restart}"
        yield failed(f"its health check says {examined.running.health or 'nothing'!r}", fix)


def backup(examined: ExaminedBroker) -> Iterator[Result]:
    """Look for the last backup, and read its age."""
    record = read_object(examined.broker.paths.last_backup)
    fix = f"mqttkit broker backup create FILE{examined.name_option}; examples/broker has a daily timer"
    if record is None:
        yield warned("it was never backed up", fix)
        return
    path, age = Path(str(record["path"])), time.time() - float(record["time"])
    if not path.exists():
        yield warned(f"its last backup {path} is gone", fix)
    elif age > BACKUP_DAYS * DAY:
        yield warned(f"its last backup is {age / DAY:.0f} days old: {path}", fix)
    else:
        yield passed(f"it was backed up {max(0.0, age) / 3600:.0f} hours ago to {path}")


def disk(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the free space of the data directory."""
    place = examined.broker.data_directory()
    if place is None or not place.is_dir():
        yield not_checked("this user cannot see the data directory")
        return
    found = os.statvfs(place)
    free, share = found.f_bavail * found.f_frsize, found.f_bavail / max(1, found.f_blocks)
    detail = f"{free // MIB:,} MiB free, {share:.0%}"
    fix = f"free some space below {place}"
    if free < LEAST_FREE:
        yield failed(detail, fix)
    elif share < LOW_FREE:
        yield warned(detail, fix)
    else:
        yield passed(detail)


def data(examined: ExaminedBroker) -> Iterator[Result]:
    """Check that persistence is on, and that its directory survives a restart of broker and machine."""
    if lack := LACKS[examined.broker.backend].get(Feature.PERSISTENCE):
        yield warned(lack, "mqttkit broker up --backend process --name NAME")
        return
    if not _tuning(examined).persistence:
        yield warned("persistence is off", f"mqttkit broker restart --persistence{examined.name_option}")
        return
    place = examined.broker.data_directory()
    if place is None:
        yield failed("data is not on a volume: it is lost with the container", examined.restart)
    elif (kind := _file_system(place)) in MEMORY_SYSTEMS:
        yield warned(f"{place} is on {kind}, and a reboot deletes it", "set XDG_STATE_HOME to a disk")
    else:
        yield passed(f"{place} is on a disk ({kind or 'file system unknown'})")


def last_save(examined: ExaminedBroker) -> Iterator[Result]:
    """Compare the age of the database with the autosave interval."""
    settings = _tuning(examined)
    if not settings.persistence:
        yield not_checked("persistence is off")
        return
    saved = examined.broker.last_save()
    up_for = time.time() - examined.running.started
    allowed = LATE * settings.autosave_interval + SLACK_SECONDS
    if saved is None:
        yield failed("the database was never saved", f"mqttkit broker logs{examined.name_option}")
        return
    age = max(0.0, time.time() - saved)  # the clock may have been set back
    if age > allowed and up_for > allowed:
        yield failed(f"the last save is {age:.0f} s old", f"mqttkit broker logs{examined.name_option}")
    else:
        yield passed(f"saved {age:.0f} s ago; every {settings.autosave_interval} s")


def restart_policy(examined: ExaminedBroker) -> Iterator[Result]:
    """Check what restarts the broker: the engine's policy, and whether the engine will follow it."""
    policy = examined.broker.restart_policy()
    if policy is None:
        yield warned(
            "nothing restarts it after a crash or a reboot",
            "mqttkit broker up --backend docker --name NAME, or a systemd unit that runs `mqttkit broker up`",
        )
    elif policy not in ("always", "unless-stopped"):
        yield warned(f"the engine's restart policy is {policy!r}", examined.restart)
    elif examined.broker.stopped_by_hand():
        yield failed(
            f"the engine marked the container as stopped by hand, perhaps by `docker kill`: {policy} has no effect",
            examined.restart,
        )
    elif examined.broker.stopped_by_hand() is None:
        yield passed(f"the engine's restart policy is {policy}; only root can see whether the engine will follow it")
    else:
        yield passed(f"the engine restarts it: {policy}")


def image(examined: ExaminedBroker) -> Iterator[Result]:
    """Check that the image names one version: a tag that moves may be another version tomorrow."""
    used = examined.profile.image
    if used is None:
        yield not_checked(f"the {examined.broker.backend} backend has no image")
        return
    asked = examined.broker.spec.image or used.partition("@")[0]
    if "@sha256:" in asked or re.search(r":\d+\.\d+\.\d+", asked):
        yield passed(used)
    else:
        fix = f"mqttkit broker restart --image {asked.partition(':')[0]}:X.Y.Z{examined.name_option}"
        yield warned(f"the tag of {asked} may move", fix)


def _tuning(examined: ExaminedBroker) -> configuration.Tuning:
    return configuration.tuning(examined.broker.spec.tuning, examined.broker.spec.overrides)


def _memory_limit(used: Resources) -> int:
    """Return how much memory the broker may use: its limit, or what the machine has left."""
    most = _available_memory() + used.memory_bytes
    return min(used.limit_bytes or most, most)


def _available_memory() -> int:
    return int(_field(Path("/proc/meminfo").read_text(), r"^MemAvailable:\s+(\d+) kB")) * 1024


def _file_system(place: Path) -> str:
    """Return the type of the file system that holds a directory; empty if it is unknown."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found = line.split()[:3]
        if place.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _field(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.M)
    if found is None:
        raise ValueError(f"{pattern!r} matches nothing")
    return found[1]
