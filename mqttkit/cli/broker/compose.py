"""`mqttkit broker compose`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mqttkit.cli.broker.options import name_option
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.errors import UsageError

if TYPE_CHECKING:
    from mqttkit.broker.backends.docker.container_plan import BesideService

HEALTH_PORT = 9464
HEALTH_CHECK = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{HEALTH_PORT}/livez')"
DIRECTORY, STATE = "/etc/mqttkit", "/var/lib/mqttkit"
DEFAULT_IMAGE = "mqttkit-bridge"
DEFAULT_SINK = f"sqlite:{STATE}/metrics.db"


@click.command("compose", cls=GroupedCommand)
@name_option
@click.option("--with-bridge", is_flag=True, help="Add a bridge that stores metrics (`mqttkit bridge run`).")
@click.option("--bridge-image", metavar="IMAGE", default=DEFAULT_IMAGE, help=f"The bridge's image.  [{DEFAULT_IMAGE}]")
@click.option(
    "--sink",
    "sinks",
    metavar="SINK",
    multiple=True,
    help=f"Where the bridge stores metrics; may be given several times.  [{DEFAULT_SINK}]",
)
def compose(name: str, with_bridge: bool, bridge_image: str, sinks: tuple[str, ...]) -> None:
    """Print a compose file for a container like the broker's.

    \b
    mqttkit broker compose --with-bridge > compose.yaml
    """
    from mqttkit.bridge.outputs.plan import output_names
    from mqttkit.broker.backends.docker.backend import DockerBroker
    from mqttkit.broker.profile import BrokerPaths, BrokerSpec, load_spec, read_profile
    from mqttkit.settings import OutputSettings

    if not with_bridge and (bridge_image != DEFAULT_IMAGE or sinks):
        raise UsageError("--bridge-image and --sink need --with-bridge")
    if len(sinks) > 1:
        output_names(tuple(OutputSettings(sink=sink) for sink in sinks))
    paths = BrokerPaths.of(name)
    spec = load_spec(paths) or BrokerSpec(name=name, backend="docker", websocket_port=9001)
    if spec.backend not in ("auto", "docker"):
        raise UsageError(f"broker {name!r} uses the {spec.backend} backend: it has no container")
    profile = read_profile(paths)
    image = profile.image if profile and profile.image and "@sha256" in profile.image else None
    broker = DockerBroker(spec, paths)
    plan = broker.plan if image is None or spec.image else dataclasses.replace(broker.plan, image=image)
    beside = (
        [_bridge(plan.name, name, bridge_image, sinks or (DEFAULT_SINK,), anonymous=spec.anonymous)]
        if with_bridge
        else []
    )
    click.echo(plan.compose(beside), nl=False)


def _bridge(host: str, broker: str, image: str, sinks: Sequence[str], *, anonymous: bool) -> BesideService:
    """Return the bridge's service. The directory `mqttkit-bridge` beside the file has its tenants and password."""
    from mqttkit.broker.backends.docker.container_plan import BesideService

    login = [] if anonymous else ["--username", "bridge", "--password-file", f"{DIRECTORY}/bridge.password"]
    chosen = [word for sink in sinks for word in ("--sink", sink)]
    add_user = f"mqttkit broker user add bridge --role bridge --generate --name {shlex.quote(broker)}"
    return BesideService(
        suffix="bridge",
        image=image,
        command=[
            *("bridge", "run", "--host", host, *login, *chosen, "--tenants", f"{DIRECTORY}/tenants.yaml"),
            *("--health-host", "0.0.0.0", "--health-port", str(HEALTH_PORT)),  # noqa: S104 - inside the container
        ],
        mounts=[f"./mqttkit-bridge:{DIRECTORY}:ro"],
        state=STATE,
        port=HEALTH_PORT,
        health=["python", "-c", HEALTH_CHECK],
        stop_seconds=20,
        comment=[
            "Before the first start, beside this file:",
            "  mkdir mqttkit-bridge",
            *([] if anonymous else [f"  {add_user} > mqttkit-bridge/bridge.password"]),
            "  mqttkit bridge tenant add UUID --tenants mqttkit-bridge/tenants.yaml",
            "The image's user must be able to read these files. To build the image in mqttkit's source code:",
            f"  docker build -t {image} -f examples/bridge/Dockerfile .",
        ],
    )
