"""Connect to Redis: a single server, Sentinel or Cluster. Only this module imports redis."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from mqttkit.config import read_secret
from mqttkit.errors import ConfigError, MissingPart, SinkRefused, SinkUnavailable, UsageError

if TYPE_CHECKING:
    import redis

IDLE_SECONDS = 1.0
"""The server may have closed a connection that was idle for longer, so check it before the next command."""

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


def connect_redis(address: str, *, timeout: float, password_file: str | None = None) -> redis.Redis:
    """Return a client that connects at its first command and never repeats a command automatically.

    Addresses: redis://[user:password@]host[:port][/db], rediss:// over TLS, unix://PATH,
    redis+sentinel://host[:port],…/SERVICE[/db], redis+cluster://host[:port],….
    With `password_file` each new connection reads its password from that file.
    Raise UsageError for any other address, MissingPart without redis-py.
    """
    library = _library()
    scheme = address.split(":", 1)[0]
    if scheme not in SCHEMES:
        raise UsageError(f"{redacted(address)!r} is not a Redis address", hint=f"Schemes: {', '.join(SCHEMES)}")
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": True,
    }
    try:
        if password_file is not None:
            address, user = _without_user(address)
            options["credential_provider"] = _PasswordFile(user, password_file)
        if scheme == "redis+cluster":
            _nodes(address, 6379)
            return cast("redis.Redis", _LazyClient(partial(_cluster, library, address, options)))
        options["retry"] = library.retry.Retry(library.backoff.NoBackoff(), 0)
        if scheme == "redis+sentinel":
            return _sentinel(library, address, options)
        client: redis.Redis = library.Redis.from_url(address, **options)
        return client
    except ValueError as error:
        raise UsageError(f"{redacted(address)!r} is not a Redis address: {error}") from error


class _PasswordFile:
    """Gives redis-py user and password for each new connection."""

    def __init__(self, user: str, path: str) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str, ...]:
        """Read the file again; raise redis-py's ConnectionError, after which redis-py closes the connection."""
        try:
            password = read_secret(self._path, "", "password file")
        except ConfigError as error:
            raise _library().exceptions.ConnectionError(str(error)) from error
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str, ...]:
        """As `get_credentials`; redis-py wants both."""
        return self.get_credentials()


def _without_user(address: str) -> tuple[str, str]:
    """Return an address without its user, and the user; raise ValueError if it has a password."""
    credentials = _credentials(address)
    if "password" in credentials:
        raise ValueError("it has a password, and a password file is given too")
    user = urlsplit(address).netloc.rpartition("@")[0]
    return address.replace(f"//{user}@", "//", 1) if user else address, credentials.get("username", "")


def redacted(address: str) -> str:
    """Return the address without its password."""
    return re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", address)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn redis-py's errors into SinkUnavailable and SinkRefused."""
    library = _library()
    try:
        yield
    except library.exceptions.DataError as error:
        raise SinkRefused(f"{name}: {error}") from error
    except (library.exceptions.RedisError, library.exceptions.RedisClusterException) as error:
        text = str(error) or type(error).__name__
        raise SinkUnavailable(f"{name}: {text}") from error
    except OSError as error:
        raise SinkUnavailable(f"{name}: {error}") from error


class Caller:
    """Runs large commands of one client. Use it from one thread at a time.

    redis-py checks the socket before each command and sends a large command in three pieces. Each step lets another
    thread take the interpreter while Redis waits. The caller skips the check for a connection that was used a moment
    ago, and sends the command in one piece. A cluster client must choose the node, so it runs its commands itself.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        self._connection: Any = None
        self._used_at = 0.0

    def call(self, *command: str | bytes | int) -> Any:
        """Run a command and return the answer; raise redis-py's errors."""
        if isinstance(self._client, _LazyClient):
            return self._client.execute_command(*command)
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.release()
        connection = self._connection = self._connection or self._client.connection_pool.get_connection()
        try:
            connection.send_packed_command([b"".join(connection.pack_command(*command))])
            answer = connection.read_response()
        except BaseException:
            self.release()  # redis-py has closed it if an answer may still arrive
            raise
        self._used_at = time.monotonic()
        return answer

    def release(self) -> None:
        """Return the connection to the client's pool, which checks it before the next use."""
        if self._connection is not None:
            self._client.connection_pool.release(self._connection)
            self._connection = None


class _LazyClient:
    """Connect at the first command, as other clients do. RedisCluster connects when it is created."""

    def __init__(self, make: Callable[[], redis.Redis]) -> None:
        self._make = make
        self._client: redis.Redis | None = None

    def __getattr__(self, name: str) -> Any:
        if self._client is None:
            self._client = self._make()
        return getattr(self._client, name)

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self._client is not None:
            self._client.close()


def _library() -> Any:
    try:
        import redis
        import redis.backoff
        import redis.cluster
        import redis.exceptions
        import redis.retry
        import redis.sentinel
    except ImportError as error:
        raise MissingPart("redis-py is not installed", hint="Install it with: pip install 'mqttkit[redis]'") from error
    return redis


def _nodes(address: str, default_port: int) -> list[tuple[str, int]]:
    hosts = urlsplit(address).netloc.rpartition("@")[2]
    nodes = []
    for entry in hosts.split(","):
        host, _, port = entry.partition(":")
        if not host or (port and not port.isdigit()):
            raise ValueError(f"{entry!r} is not host[:port]")
        nodes.append((host, int(port or default_port)))
    return nodes


def _credentials(address: str) -> dict[str, str]:
    user, separator, password = urlsplit(address).netloc.rpartition("@")[0].partition(":")
    found = {"username": unquote(user)} if user else {}
    return {**found, "password": unquote(password)} if separator else found


def _cluster(library: Any, address: str, options: dict[str, Any]) -> redis.Redis:
    nodes = [library.cluster.ClusterNode(host, port) for host, port in _nodes(address, 6379)]
    # The client learns of a moved slot by one more attempt, which the sink's script makes harmless.
    retry = library.retry.Retry(library.backoff.NoBackoff(), 3)
    client: redis.Redis = library.cluster.RedisCluster(
        startup_nodes=nodes, retry=retry, **options, **_credentials(address)
    )
    return client


def _sentinel(library: Any, address: str, options: dict[str, Any]) -> redis.Redis:
    path = urlsplit(address).path.strip("/").split("/")
    if not path[0]:
        raise ValueError("the service is missing: redis+sentinel://host:26379/SERVICE")
    database = int(path[1]) if len(path) > 1 else 0
    watchers = {key: value for key, value in options.items() if key not in ("retry", "credential_provider")}
    sentinel = library.sentinel.Sentinel(_nodes(address, 26_379), sentinel_kwargs=watchers)
    client: redis.Redis = sentinel.master_for(path[0], db=database, **options, **_credentials(address))
    return client
