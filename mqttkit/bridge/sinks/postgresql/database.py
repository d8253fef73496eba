"""A connection to PostgreSQL that reconnects after a failure."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mqttkit.bridge.sinks.postgresql.layout import Layout
from mqttkit.bridge.sinks.postgresql.tables import Tables, prepare_tables
from mqttkit.config import read_secret
from mqttkit.errors import ConfigError, MissingPart, SinkBroken, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    import psycopg


def _library() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingPart(
            "psycopg is not installed", hint="Install it with: pip install 'mqttkit[postgresql]'"
        ) from error
    return psycopg


class Database:
    """A connection that reconnects after a failure, and that is cut if the server does not answer in time."""

    def __init__(
        self, address: str, timeout: float, tables: Tables | None = None, *, password_file: str | None = None
    ) -> None:
        """`timeout` in seconds bounds connecting and each block of `use`. Without `tables` it prepares none.

        Each new connection reads its password from `password_file`, if that is given.
        """
        self.name = re.sub(r"//.*@", "//", address.split("?", maxsplit=1)[0])
        self._address = address
        self._timeout = timeout
        self._tables = tables
        self._password_file = password_file
        self.layout = Layout()
        """How metrics are stored, as the last connection has found it."""
        self._connection: psycopg.Connection[Any] | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection in a transaction, which commits at the end or rolls back on an exception.

        Raise SinkUnavailable, SinkRefused for data that cannot be stored, SinkBroken for tables of another shape.
        """
        library = _library()
        try:
            connection = self._connected()
            with self._deadline(connection), connection.transaction():
                yield connection
        except ConfigError as error:
            raise SinkUnavailable(f"{self.name}: {error}") from error
        except (library.DataError, library.IntegrityError) as error:
            raise SinkRefused(f"{self.name}: {_first_line(error)}") from error
        except (library.OperationalError, library.InterfaceError) as error:
            self.close()
            raise SinkUnavailable(f"{self.name}: {_first_line(error)}") from error
        except library.errors.ProgrammingError as error:
            hint = "Check that the tables have the expected columns and that the user has rights on them"
            raise SinkBroken(f"{self.name}: {_first_line(error)}", hint=hint) from error
        except library.Error as error:
            self.close()
            raise SinkUnavailable(f"{self.name}: {_first_line(error)}") from error

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = self._connection = self._connect()
            try:
                with self._deadline(connection), connection.transaction():
                    connection.execute("SET LOCAL client_min_messages = warning")
                    if self._tables is not None:
                        self.layout = prepare_tables(connection, self._tables, self.name)
            except BaseException:
                self.close()
                raise
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        options: dict[str, Any] = {"connect_timeout": max(2, round(self._timeout)), "application_name": "mqttkit"}
        if self._password_file is not None:
            options["password"] = read_secret(self._password_file, "", "sink_password_file")
        connection: psycopg.Connection[Any] = _library().connect(self._address, autocommit=True, **options)
        return connection

    @contextlib.contextmanager
    def _deadline(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Cut the connection from another thread when the time is up: libpq would wait forever."""
        twin = socket.socket(fileno=os.dup(connection.fileno()))
        timer = threading.Timer(self._timeout, _cut, (twin,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            twin.close()


def _cut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        twin.shutdown(socket.SHUT_RDWR)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
