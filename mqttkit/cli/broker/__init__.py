"""`mqttkit broker`: the group; each command is imported when it is used."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS: dict[str, Entry] = {
    "up": Entry("mqttkit.cli.broker.life", "up", "Start a secured broker and wait until it answers."),
    "down": Entry("mqttkit.cli.broker.life", "down", "Stop it; its data stays."),
    "restart": Entry("mqttkit.cli.broker.life", "restart", "Stop and start it, with other settings if you like."),
    "reload": Entry("mqttkit.cli.broker.life", "reload_", "Let it take changed users, ACL and certificates."),
    "status": Entry("mqttkit.cli.broker.life", "status", "Tell whether it answers, where, and what it uses."),
    "stats": Entry("mqttkit.cli.broker.watch", "stats", "Show its own statistics ($SYS), live with --follow."),
    "logs": Entry("mqttkit.cli.broker.watch", "logs", "Show its log, live with --follow."),
    "user": Entry("mqttkit.cli.broker.accounts", "user_group", "Add, change, remove and list users."),
    "acl": Entry("mqttkit.cli.broker.accounts", "acl_group", "Grant, revoke, list and check rights."),
    "doctor": Entry("mqttkit.cli.broker.doctor", "doctor", "Check it against the production checklist."),
    "cert": Entry("mqttkit.cli.broker.certificates", "cert_group", "Make, show and renew certificates for TLS."),
    "backup": Entry("mqttkit.cli.broker.backup", "backup_group", "Make, prove and restore archives."),
    "compose": Entry("mqttkit.cli.broker.backup", "compose", "Print a compose file with the same set-up."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def broker() -> None:
    """Start, watch and stop an MQTT broker on this machine."""
