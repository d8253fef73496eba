"""The lines above the tree: the broker, its own figures, and what the view holds."""

from __future__ import annotations

import time

from rich.text import Text

from mqttkit.cli.top.figures import age, rate, size
from mqttkit.client import ConnectionState
from mqttkit.formats.visible import visible
from mqttkit.live.feed import Feed
from mqttkit.live.rows import View


def header_lines(feed: Feed, width: int, *, profile: str, view: View, frozen: int | None) -> list[Text]:
    """Return three lines: connection, broker, view. `frozen` counts the messages since the view was frozen.

    `profile` is that of a broker which `broker up` runs, or empty.
    """
    lines = [_connection(feed, frozen), _broker(feed, width, profile), _view(feed, view)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _connection(feed: Feed, frozen: int | None) -> Text:
    line = Text(" mqttkit top  ", style="bold", no_wrap=True)
    line.append(feed.address, "bold cyan")
    line.append("  ")
    seconds = age(time.monotonic() - feed.since)
    if feed.state is ConnectionState.CONNECTED:
        line.append(f"connected for {seconds}", "green")
    else:
        line.append(visible(f"{feed.state.value} for {seconds}: {feed.reason}"), "bold red")
    line.append(f"  {' '.join(map(visible, feed.topic_filters))}", "not bold")
    if frozen is not None:
        line.append(f"  FROZEN, {frozen:,} messages since", "bold yellow")
    return line


def _broker(feed: Feed, width: int, profile: str) -> Text:
    """Return as many of the broker's figures as have room, the most important first."""
    found = feed.statistics
    line = Text(" broker  ", style="not bold", no_wrap=True)
    if profile:
        line.append(f"{profile}  ", "cyan")
    if found is None:
        line.append("no $SYS figures: this broker sends none, or not to this user", "dim")
        return line
    figures = {
        "clients_connected": f"{found.clients_connected:,} clients",
        "received_per_minute": f"in {rate(found.received_per_second)}/s",
        "sent_per_minute": f"out {rate(found.sent_per_second)}/s",
        "heap_bytes": f"memory {size(found.heap_bytes)}",
        "retained": f"retained {found.retained:,}",
        "publish_dropped": f"dropped {found.publish_dropped:,}",
        "version": visible(found.version),
    }
    for name, text in figures.items():
        if feed.knows(name) and line.cell_len + len(text) <= width:
            line.append(f"{text}  ")
    line.rstrip()
    return line


def _view(feed: Feed, view: View) -> Text:
    tree = feed.tree
    line = Text(" here    ", style="not bold", no_wrap=True)
    line.append(
        f"{len(tree):,} topics  {rate(tree.root.total_rate)} msg/s  {tree.received:,} messages  "
        f"{size(tree.used)} of {size(tree.max_bytes)}"
    )
    dropped = tree.dropped
    if dropped.topics or dropped.values or dropped.cut:
        text = f"  dropped {dropped.topics:,} topics, {dropped.values:,} values; {dropped.cut:,} cut"
        line.append(text, "bold yellow")
    if view.wanted:
        line.append(f"  filter {visible(view.wanted)}", "bold magenta")
    return line
