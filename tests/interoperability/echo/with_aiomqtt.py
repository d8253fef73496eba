"""Publish each message of `to/#` again under `from/…`, with aiomqtt: PORT VERSION PREFIX."""

from __future__ import annotations

import asyncio
import sys

import aiomqtt


async def main(port: str, version: str, prefix: str) -> None:
    """Run until killed."""
    protocol = aiomqtt.ProtocolVersion.V5 if version == "5" else aiomqtt.ProtocolVersion.V311
    async with aiomqtt.Client("127.0.0.1", int(port), protocol=protocol) as client:
        await client.subscribe(f"{prefix}/to/#", qos=2)
        print("ready", flush=True)
        async for message in client.messages:
            back = str(message.topic).replace(f"{prefix}/to/", f"{prefix}/from/")
            await client.publish(back, message.payload, qos=message.qos)


asyncio.run(main(*sys.argv[1:]))
