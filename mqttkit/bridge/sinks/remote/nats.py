"""Publish metrics to a stream of NATS JetStream, each as JSON on PREFIX.TENANT.AGENT.METRIC.

Each message has a `Nats-Msg-Id`, by which the server drops a repeated one within the stream's duplicate window. A
crash may last longer. So each request begins with the stream's last sequence number, and before the sink repeats a
request it reads which of its messages the stream has received since.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import PendingPost, dedupe_key
from mqttkit.bridge.sinks.remote.event_loop import LoopThread
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.config import read_secret
from mqttkit.errors import BridgeError, MissingPart, SinkBroken, SinkRefused, SinkUnavailable, UsageError

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.client import JetStreamContext

T = TypeVar("T")

DUPLICATE_SECONDS = 120.0
"""Duplicate window of a stream that the sink creates."""
FETCHED = 500
"""Messages to read back in one request."""
CLOSE_SECONDS = 2.0
HEADER_BYTES = 100
"""Bytes of a message's headers, without the stream's name, which they contain. The server's limits include them."""
_SUBJECT = "metrics"
_EXAMPLE = "Example: nats://localhost:4222/METRICS"


class _Stream(NamedTuple):
    """What the server reports about the stream."""

    last: int
    """Sequence number of the last message."""
    longest: int
    """Bytes of data that one message may have."""


class NatsDestination:
    """One connection. A new one is made after an error."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        """Raise UsageError, or MissingPart without nats-py."""
        try:
            import nats  # noqa: F401 - other methods import what they use
        except ImportError as error:
            raise MissingPart("nats-py is not installed", hint="pip install 'mqttkit[nats]'") from error
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query))
        self.stream = parts.path.strip("/")
        self._prefix = query.pop("subject", _SUBJECT)
        if not self.stream or "/" in self.stream or query or not parts.hostname:
            raise UsageError("the nats sink's address has no stream, or an unknown option", hint=_EXAMPLE)
        if parts.password is not None:
            raise UsageError("a password does not belong in the sink's address", hint="Use --sink-password-file")
        self._server = f"nats://{parts.hostname}:{parts.port or 4222}"
        self._user = unquote(parts.username) if parts.username else None
        self._secure = parts.scheme == "natss"
        self._options = options
        self.name = f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}/{self.stream}"
        self.target = self._prefix if self._prefix != _SUBJECT else ""
        self._loop = LoopThread("sink-nats")
        self._client: Client | None = None

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return the stream's last sequence number, then a line per metric: subject, identifier, JSON."""
        state = self._do(self._look())
        return "\n".join((str(state.last), *(self._line(metric, state.longest) for metric in metrics))).encode()

    def check_reachable(self) -> None:
        """Look at the stream; create it if it is missing."""
        self._do(self._look())

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """Publish the messages that the stream does not have, and wait until it has them."""
        head, *lines = post.body.decode().split("\n")
        self._do(self._publish([line.split("\t", 2) for line in lines], int(head) if repeated else None))

    def close(self) -> None:
        """Close connection and loop."""
        self._disconnect()
        self._loop.close()

    def read(self, agent: str = "*") -> list[bytes]:
        """Return the stored messages of an agent; raise SinkUnavailable."""
        return self._do(self._collect(f"{self._prefix}.*.{_token(agent)}.*"))

    def delete_stream(self) -> None:
        """Remove the stream; raise SinkUnavailable."""

        async def delete() -> None:
            await (await self._context()).delete_stream(self.stream)

        self._do(delete())

    def _line(self, metric: Metric, longest: int) -> str:
        subject = ".".join((self._prefix, metric.tenant_id, _token(metric.agent_id), _token(metric.metric_name)))
        key = uuid.uuid4().hex if metric.dedupe_id is None else dedupe_key(metric)
        identifier = hashlib.sha256(f"{self._prefix} {key}".encode()).hexdigest()[:32]
        data = encode_json(json_record(metric))
        if len(data) > longest:
            raise SinkRefused(f"a message of {len(data)} bytes, the limit is {longest}")
        return f"{subject}\t{identifier}\t{data.decode()}"

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine within the time limit; translate errors, and drop the connection after one."""
        import nats.errors
        from nats.js.errors import NoStreamResponseError

        try:
            return self._loop.run(work, self._options.timeout)
        except nats.errors.MaxPayloadError as error:
            raise SinkRefused(f"{self.name}: {error}") from error
        except NoStreamResponseError as error:
            self._disconnect()
            raise SinkUnavailable(f"{self.name}: no stream takes the subject {self._prefix}.>") from error
        except BridgeError:
            raise
        except Exception as error:  # nats-py lets errors of Python through if a server answers nonsense
            self._disconnect()
            raise SinkUnavailable(f"{self.name}: {str(error) or type(error).__name__}") from error

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                self._loop.run(client.close(), CLOSE_SECONDS)
            except Exception:  # noqa: BLE001 - it is given up either way
                self._loop.close()

    async def _context(self) -> JetStreamContext:
        """Return JetStream on an open connection."""
        if self._client is None or not self._client.is_connected:
            if self._client is not None:
                await self._client.close()
            secrets = self._credentials()
            self._client = _new_client(secure=self._secure)
            await self._client.connect(
                self._server,
                allow_reconnect=False,
                connect_timeout=max(1, int(self._options.timeout)),
                error_cb=_ignore,
                tls=self._tls(),
                **secrets,
            )
        return self._client.jetstream(publish_async_max_pending=100_000)

    def _credentials(self) -> dict[str, Any]:
        """Return user and password, or token; each new connection reads the files again."""
        if self._options.http.token_file is not None:
            return {"token": read_secret(self._options.http.token_file, "", "token file")}
        if self._user is None:
            return {}
        password = _password(self._options.password_file)
        return {"user": self._user, "password": password}

    def _tls(self) -> ssl.SSLContext | None:
        if not self._secure:
            return None
        http = self._options.http
        context = ssl.create_default_context(cafile=http.ca_file)
        if http.cert_file is not None:
            context.load_cert_chain(http.cert_file, http.key_file)
        return context

    async def _look(self) -> _Stream:
        """Return the stream's state; create a missing stream, refuse one with other subjects."""
        from nats.js.api import StreamConfig
        from nats.js.errors import NotFoundError

        stream = await self._context()
        wanted = f"{self._prefix}.>"
        try:
            info = await stream.stream_info(self.stream)
        except NotFoundError:
            config = StreamConfig(name=self.stream, subjects=[wanted], duplicate_window=DUPLICATE_SECONDS)
            info = await stream.add_stream(config)
        subjects = info.config.subjects or []
        if not any(subject in (wanted, ">") for subject in subjects):
            shown = ", ".join(subjects) or "no subject"
            raise SinkBroken(
                f"the stream {self.stream} takes {shown}, and not {wanted}",
                hint="Give its prefix: nats://host/STREAM?subject=PREFIX",
            )
        given = (info.config.max_msg_size, self._client.max_payload if self._client is not None else None)
        limits = [size for size in given if size is not None and size > 0]
        return _Stream(int(info.state.last_seq), min(limits) - HEADER_BYTES - len(self.stream))

    async def _publish(self, messages: list[list[str]], after: int | None) -> None:
        stream = await self._context()
        if after is not None:
            stored = await self._stored_since(after)
            messages = [message for message in messages if message[1] not in stored]
        answers = []
        for subject, identifier, text in messages:
            headers = {"Nats-Msg-Id": identifier}
            answers.append(await stream.publish_async(subject, text.encode(), stream=self.stream, headers=headers))
        await asyncio.gather(*answers)

    async def _stored_since(self, after: int) -> set[str]:
        """Return the identifiers of the messages after a sequence number, if the stream keeps them for every reader."""
        from nats.js.api import RetentionPolicy

        if (await self._look()).last < after:
            after = 0  # another stream under the same name
        info = await (await self._context()).stream_info(self.stream)
        if info.config.retention not in (None, RetentionPolicy.LIMITS):
            return set()
        return {found async for found, _ in self._messages(f"{self._prefix}.>", after + 1, headers_only=True)}

    async def _collect(self, subject: str) -> list[bytes]:
        return [data async for _, data in self._messages(subject, 1)]

    async def _messages(
        self, subject: str, first: int, *, headers_only: bool = False
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Yield identifier and data of the stored messages from the sequence number `first` on."""
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            ack_policy=AckPolicy.NONE,
            headers_only=headers_only or None,
        )
        stream = await self._context()
        try:
            reader = await stream.pull_subscribe(subject, stream=self.stream, config=config)
        except NotFoundError:
            return
        left = (await reader.consumer_info()).num_pending or 0
        while left:
            for message in await reader.fetch(min(left, FETCHED), timeout=self._options.timeout):
                left -= 1
                yield (message.headers or {}).get("Nats-Msg-Id", ""), message.data
        await reader.unsubscribe()


def _new_client(*, secure: bool) -> Client:
    """Return a client; a secure one never sends its credentials without TLS."""
    from nats.aio.client import Client
    from nats.errors import SecureConnRequiredError

    class SecureClient(Client):
        def _connect_command(self) -> bytes:
            if not self._server_info.get("tls_required"):
                raise SecureConnRequiredError
            return super()._connect_command()

    return SecureClient() if secure else Client()


def _token(text: str) -> str:
    """Return one token of a subject: a dot would begin another one."""
    return text.replace(".", "_")


def _password(path: str | None) -> str:
    return "" if path is None else read_secret(path, "", "password file")


async def _ignore(_error: Exception) -> None:
    """Report nothing: the request that fails reports it."""
