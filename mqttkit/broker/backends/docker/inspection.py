"""Facts about a container and its volumes, for status and doctor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.broker.backends.docker.container_plan import HOME
from mqttkit.broker.backends.docker.engine import BROKER_USER, environment, has_path, one_shot, read_path, run_in
from mqttkit.broker.file_facts import FileFact
from mqttkit.broker.mosquitto.configuration import PLUGIN_FILES, PLUGIN_VERSION
from mqttkit.errors import LifecycleError, MissingPart

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image


PLUGIN_PLACES = (
    "/usr/lib",
    "/usr/lib/mosquitto",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu/mosquitto",
    "/usr/lib/aarch64-linux-gnu/mosquitto",
)
"""Where images have mosquitto's plugins."""


def file_facts(container: Container, wanted: int) -> Iterator[FileFact]:
    """Yield owner, mode and kind of each file of the running broker, without following symbolic links."""
    places = " ".join(f"{HOME}/{below}/*" for below in ("config", "config/certs", "data"))
    script = f'for f in {places}; do if [ -e "$f" ] || [ -L "$f" ]; then stat -c "%a|%u|%F|%n" "$f"; fi; done'
    text = run_in(container, "sh", "-c", script)
    for line in text.splitlines():
        mode, uid, kind, place = line.split("|", 3)
        yield FileFact(
            name=place.removeprefix(f"{HOME}/"),
            place=f"{place} in container {container.name}",
            uid=int(uid),
            wanted=wanted,
            mode=int(mode, 8),
            link=kind == "symbolic link",
            directory=kind == "directory",
        )


def last_save(container: Container, place: str) -> float | None:
    """Return when the database was saved, seconds since the epoch, or None."""
    text = run_in(container, "sh", "-c", f"if [ -e {place} ]; then stat -c %Y {place}; fi")
    return float(text) if text else None


def data_directory(client: DockerClient, container: Container) -> Path | None:
    """Return the directory of the container's data volume on this machine; None if its data is not on a volume."""
    for mount in container.attrs.get("Mounts") or []:
        if mount.get("Destination") == f"{HOME}/data" and mount.get("Type") in ("volume", "bind"):
            if mount["Type"] == "bind":
                return Path(mount["Source"])
            return Path(str(client.volumes.get(mount["Name"]).attrs["Mountpoint"]))
    return None


def restart_policy(container: Container) -> str | None:
    """Return the engine's restart policy; None if it does not restart the container."""
    policy = (container.attrs.get("HostConfig") or {}).get("RestartPolicy") or {}
    name = str(policy.get("Name") or "no")
    return None if name == "no" else name


def stopped_by_hand(client: DockerClient, container: Container) -> bool | None:
    """Return whether the engine treats the container as stopped by hand, so that it does not start it again.

    The engine's API does not report this; its own file does, which only root can read. None if we cannot read it.
    """
    root = str(client.info().get("DockerRootDir") or "")
    try:
        state = json.loads(Path(root, "containers", str(container.id), "config.v2.json").read_bytes())
    except (OSError, ValueError):
        return None
    return bool(state.get("HasBeenManuallyStopped"))


def broker_user(container: Container) -> tuple[int, int]:
    """Return (uid, gid) of the image's user `mosquitto`."""
    for line in (read_path(container, "/etc/passwd") or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == BROKER_USER and len(fields) > 3:
            return int(fields[2]), int(fields[3])
    raise MissingPart(
        "the image has no user 'mosquitto'", hint="Choose an image that is laid out as eclipse-mosquitto with --image"
    )


def plugin_directory(container: Container, version: tuple[int, ...]) -> str | None:
    """Return the directory of mosquitto's own plugins in the container, or None; versions before 2.1 have none."""
    if version < PLUGIN_VERSION:
        return None
    for place in PLUGIN_PLACES:
        if all(has_path(container, f"{place}/{name}") for name in PLUGIN_FILES):
            return place
    return None


def image_version(client: DockerClient, image: Image) -> tuple[int, ...]:
    """Return the version in the image's environment, or ask its mosquitto."""
    text = environment(image).get("VERSION", "")
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        output = one_shot(client, str(image.id), "mosquitto", "-h")
        found = re.search(r"mosquitto version (\d+\.\d+\.\d+)", output)
        if found is None:
            raise LifecycleError(f"the image {image.id} does not name its version of mosquitto")
        text = found[1]
    return tuple(int(part) for part in text.split("."))
