"""`mqttkit broker`: the group; each command is imported when it is used."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS: dict[str, Entry] = {
    "up": Entry("mqttkit.cli.broker.lifecycle", "up", "Start a secured broker and wait until it answers."),
    "down": Entry("mqttkit.cli.broker.lifecycle", "down", "Stop it; its data stays."),
    "restart": Entry("mqttkit.cli.broker.lifecycle", "restart", "Stop and start it, optionally with new settings."),
    "reload": Entry("mqttkit.cli.broker.lifecycle", "reload_", "Apply changed users, ACL and certificates."),
    "status": Entry("mqttkit.cli.broker.lifecycle", "status", "Show whether it answers, its addresses and its usage."),
    "stats": Entry("mqttkit.cli.broker.statistics", "stats", "Show its own statistics ($SYS), live with --follow."),
    "logs": Entry("mqttkit.cli.broker.logs", "logs", "Show its log, live with --follow."),
    "user": Entry("mqttkit.cli.broker.users", "user_group", "Add, change, remove and list users."),
    "acl": Entry("mqttkit.cli.broker.acl", "acl_group", "Grant, revoke, list and check rights."),
    "doctor": Entry("mqttkit.cli.broker.doctor", "doctor", "Check it against the production checklist."),
    "cert": Entry("mqttkit.cli.broker.certificates", "cert_group", "Make, show and renew certificates for TLS."),
    "backup": Entry("mqttkit.cli.broker.backup", "backup_group", "Create, verify and restore archives."),
    "bridge": Entry("mqttkit.cli.broker.bridges", "bridge_group", "Connect it to other brokers."),
    "compose": Entry("mqttkit.cli.broker.compose", "compose", "Print a compose file for the same broker."),
}
OTHER_NAMES = {"start": "up", "run": "up", "stop": "down", "ps": "status", "list": "status", "users": "user"}
"""What people type at first, and the command they mean."""


@click.group(cls=LazyGroup, entries=COMMANDS, other_names=OTHER_NAMES)
def broker() -> None:
    """Start, watch and stop an MQTT broker on this machine."""
