"""A real nats-server with JetStream, on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.brokers import need
from tests.support.line_servers import LineServer


class NatsServer(LineServer):
    """A server with JetStream that can be stopped, killed, paused and started again on the same port."""

    def command(self) -> list[str]:
        store = str(self.directory / "jetstream")
        return [need("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", store, *self.options]

    def address(self, stream: str, prefix: str = "") -> str:
        """Address of a stream as a sink; the sink creates it."""
        return f"nats://127.0.0.1:{self.port}/{stream}?subject={prefix or stream}"

    def make_stream(self, name: str, **config: Any) -> None:
        """Create a stream that takes the subjects NAME.>, unless `config` names others."""
        self._ask(lambda stream: stream.add_stream(name=name, **{"subjects": [f"{name}.>"], **config}))

    def messages(self, name: str) -> int:
        """Return how many messages a stream has."""
        return int(self._ask(lambda stream: stream.stream_info(name)).state.messages)

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        import nats

        async def ask() -> Any:
            client = await nats.connect(f"nats://127.0.0.1:{self.port}")
            try:
                return await question(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(ask())

    def _serves(self) -> bool:
        import socket

        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


@contextlib.contextmanager
def nats_server(directory: Path, *options: str) -> Iterator[NatsServer]:
    """Run a server."""
    server = NatsServer(directory, options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
