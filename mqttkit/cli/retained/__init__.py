"""`mqttkit retained`: the retained messages of a broker."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS: dict[str, Entry] = {
    "list": Entry("mqttkit.cli.retained.reading", "list_retained", "List topics and sizes."),
    "snapshot": Entry("mqttkit.cli.retained.reading", "snapshot", "Save retained messages into a file."),
    "diff": Entry("mqttkit.cli.retained.reading", "diff", "Compare a snapshot with a broker, or two snapshots."),
    "prune": Entry("mqttkit.cli.retained.changing", "prune", "Remove retained messages; a snapshot comes first."),
    "restore": Entry("mqttkit.cli.retained.changing", "restore", "Publish what a broker lacks of a snapshot."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def retained() -> None:
    """List, save, compare, remove and restore retained messages.

    \b
    mqttkit retained list 'site/#'
    mqttkit retained snapshot 'site/#' -o before.jsonl.zst
    mqttkit retained prune 'site/old/#'
    """
