"""Results of the `broker` commands as rows of name and value."""

from __future__ import annotations

from typing import Any

import click


def listener_rows(found: dict[str, Any]) -> dict[str, str | None]:
    """Return a row for each listener of a profile or status."""
    host = f"[{found['host']}]" if ":" in (found["host"] or "") else found["host"]
    kinds = (
        ("address", "", "port"),
        ("MQTT 5", "", "v5_port"),
        ("WebSocket", "wss://" if found.get("websocket_tls") else "ws://", "websocket_port"),
        ("TLS", "mqtts://", "tls_port"),
    )
    return {label: f"{scheme}{host}:{found[key]}" if found[key] else None for label, scheme, key in kinds}


def show_rows(rows: dict[str, Any], *, width: int = 10) -> None:
    """Print name and value of each row that has a value."""
    for label, value in rows.items():
        if value:
            click.echo(f"  {label:<{width}} {value}")
