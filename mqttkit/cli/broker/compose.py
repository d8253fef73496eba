"""`mqttkit broker compose`."""

from __future__ import annotations

import dataclasses

import click

from mqttkit.cli.broker.options import name_option
from mqttkit.errors import UsageError


@click.command("compose")
@name_option
def compose(name: str) -> None:
    """Print a compose file for a container like the broker's."""
    from mqttkit.broker.backends.docker.backend import DockerBroker
    from mqttkit.broker.profile import BrokerPaths, BrokerSpec, load_spec, read_profile

    paths = BrokerPaths.of(name)
    spec = load_spec(paths) or BrokerSpec(name=name, backend="docker", websocket_port=9001)
    if spec.backend not in ("auto", "docker"):
        raise UsageError(f"broker {name!r} uses the {spec.backend} backend: it has no container")
    profile = read_profile(paths)
    image = profile.image if profile and profile.image and "@sha256" in profile.image else None
    broker = DockerBroker(spec, paths)
    plan = broker.plan if image is None or spec.image else dataclasses.replace(broker.plan, image=image)
    click.echo(plan.compose(), nl=False)
