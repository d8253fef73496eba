"""`mqttkit bridge`: the group; each command is imported when it is used."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS = {
    "run": Entry("mqttkit.cli.bridge.run", "run", "Run the bridge until it is stopped."),
    "dev": Entry("mqttkit.cli.bridge.dev", "dev", "Start a broker and a bridge together, for local work."),
    "leave": Entry("mqttkit.cli.bridge.leave", "leave", "End the session of a bridge that is stopped."),
    "sessions": Entry("mqttkit.cli.bridge.sessions", "sessions", "List and remove the bridges' sessions."),
    "worker": Entry("mqttkit.cli.bridge.worker", "worker", "Move metrics from a Redis stream into a database."),
    "verify": Entry("mqttkit.cli.bridge.verify", "verify", "Prove on this set-up that no metric is lost."),
    "tenant": Entry("mqttkit.cli.bridge.tenants", "tenant", "Add, remove and list the tenants that may store metrics."),
    "dead-letters": Entry("mqttkit.cli.bridge.dead_letters", "dead_letters", "Inspect and retry refused messages."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def bridge() -> None:
    """Move metrics from MQTT into a database, file or HTTP service without losing any.

    The bridge subscribes to metrics/{tenant_id}/{agent_id}/{metric_name}, validates each JSON payload, commits
    in batches, and acknowledges a message only after its metric is committed.
    """
