"""Results of the `broker` commands as rows of name and value."""

from __future__ import annotations

from typing import Any

import click

OTHER_LISTENERS = ("websocket_port", "tls_port")


def listener_rows(found: dict[str, Any]) -> dict[str, str | None]:
    """Return a row for each listener of a profile or status."""
    host = f"[{found['host']}]" if ":" in (found["host"] or "") else found["host"]
    other = found.get("other_host")
    hosts = dict.fromkeys(OTHER_LISTENERS, f"[{other}]" if ":" in other else other) if other else {}
    kinds = (
        *((("address", "", "port"),) if found.get("plain", True) else ()),
        ("MQTT 5", "", "v5_port"),
        ("WebSocket", "wss://" if found.get("websocket_tls") else "ws://", "websocket_port"),
        ("TLS", "mqtts://", "tls_port"),
    )
    return {
        label: f"{scheme}{hosts.get(key, host)}:{found[key]}" if found[key] else None for label, scheme, key in kinds
    }


def show_rows(rows: dict[str, Any], *, width: int = 10) -> None:
    """Print name and value of each row that has a value."""
    for label, value in rows.items():
        if value:
            click.echo(f"  {label:<{width}} {value}")
