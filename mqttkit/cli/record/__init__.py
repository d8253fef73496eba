"""`mqttkit record`: record topic filters, and commands about recordings."""

from __future__ import annotations

import click

from mqttkit.cli.lazy import Entry, LazyGroup

COMMANDS: dict[str, Entry] = {
    "filters": Entry("mqttkit.cli.record.filters", "record_filters", "Record topic filters; the word may be omitted."),
    "info": Entry("mqttkit.cli.record.files", "info", "Show what a recording contains."),
    "cut": Entry("mqttkit.cli.record.files", "cut", "Copy a part of a recording into a new file."),
    "merge": Entry("mqttkit.cli.record.files", "merge", "Join recordings in the order of time."),
    "export": Entry("mqttkit.cli.record.files", "export", "Write a recording as JSON lines, CSV or MCAP."),
    "import": Entry("mqttkit.cli.record.files", "import_file", "Make a recording from such a file."),
}


@click.group(cls=LazyGroup, entries=COMMANDS, default="filters")
def record() -> None:
    """Record messages with their times of reception.

    \b
    mqttkit record 'site/#' -o site.jsonl.zst     record until interrupted
    mqttkit record info site.jsonl.zst            show what was recorded
    mqttkit replay site.jsonl.zst                 play it back as it was

    A recording is a zstd file of JSON lines: `zstd -dc FILE | jq` reads it.
    """
