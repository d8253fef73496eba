"""Publish each message of `to/#` again under `from/…`, with gmqtt: PORT VERSION PREFIX."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import gmqtt


async def main(port: str, version: str, prefix: str) -> None:
    """Run until killed."""
    client = gmqtt.Client(f"echo-{prefix[-8:]}")

    def on_connect(_client: Any, _flags: Any, _code: Any, _properties: Any) -> None:
        client.subscribe(f"{prefix}/to/#", qos=2)

    def on_subscribe(*_arguments: Any) -> None:
        print("ready", flush=True)

    async def on_message(_client: Any, topic: str, payload: bytes, qos: int, _properties: Any) -> int:
        client.publish(topic.replace(f"{prefix}/to/", f"{prefix}/from/"), payload, qos=qos)
        return 0

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    protocol = gmqtt.constants.MQTTv50 if version == "5" else gmqtt.constants.MQTTv311
    await client.connect("127.0.0.1", int(port), version=protocol)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
