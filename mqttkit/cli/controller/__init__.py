"""`mqttkit controller`: the group; each command is imported when it is used."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS = {
    "simulate": Entry("mqttkit.cli.controller.simulate", "simulate", "Run a simulated network, step by step."),
    "local": Entry("mqttkit.cli.controller.run", "local", "Run a local controller: it reports a subnet's devices."),
    "regional": Entry("mqttkit.cli.controller.run", "regional", "Run a regional controller: it receives reports."),
    "global": Entry("mqttkit.cli.controller.run", "global_", "Run a global controller: it publishes policies."),
    "watch": Entry("mqttkit.cli.controller.watch", "watch", "Show the controllers and their status."),
    "policy": Entry("mqttkit.cli.controller.requests", "policy", "Show policies, or set a running controller's."),
    "event": Entry("mqttkit.cli.controller.requests", "event", "Publish an event."),
    "request": Entry("mqttkit.cli.controller.requests", "request", "Ask a controller and print its answer."),
    "devices": Entry("mqttkit.cli.controller.inspect", "devices", "Show the devices that a controller knows."),
    "dead-letters": Entry(
        "mqttkit.cli.controller.inspect", "dead_letters", "Show the messages that a controller could not handle."
    ),
    "decode": Entry("mqttkit.cli.controller.inspect", "decode", "Verify a message and print its envelope."),
    "key": Entry("mqttkit.cli.controller.keys", "key", "Manage the signing keys."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def controller() -> None:
    """Run and watch network controllers: local, regional, global."""
