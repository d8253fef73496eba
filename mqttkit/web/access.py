"""Who may read the page: the token in its address or a password, and no page of another site."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mqttkit.addresses import is_loopback, parse_address, show_address
from mqttkit.errors import UsageError

TOKEN_BYTES = 24
LEAST_PASSWORD = 12
"""Characters of the shortest password accepted."""
WRONG_PASSWORD_SECONDS = 1.0
"""How long the answer to a wrong password takes; only one is answered at a time."""


@dataclass(frozen=True)
class PageAccess:
    """The address that the page is served on, and what opens it. Any thread may call the methods."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """TCP port; 0 picks a free one."""
    password: str | None = field(default=None, repr=False)
    """The password, for HTTP's basic authentication with any user name; without it, the token is used."""
    host_names: Sequence[str] = ()
    """Names under which browsers reach the page, besides addresses, localhost and this machine's name."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    """What the page's address ends with."""
    _guesses: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise UsageError if the page would be open to the network, or with a password that is easily guessed."""
        if self.password is None and not is_loopback(self.host):
            raise UsageError(
                f"--listen {self.host} opens the page to the network, and needs a password",
                hint="Write one to a file and add --page-password-file FILE",
            )
        if self.password is not None and len(self.password) < LEAST_PASSWORD:
            raise UsageError(f"the page's password must have at least {LEAST_PASSWORD} characters")

    def address(self, port: int) -> str:
        """Return the address to open in a browser; it contains the token if there is no password."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)  # noqa: S104
        query = "" if self.password is not None else f"?token={self.token}"
        return f"http://{show_address(host, port)}/{query}"

    def allows_host(self, header: str | None) -> bool:
        """Return whether a Host header names this server.

        A page of another site can let its own name point to this machine (DNS rebinding). Its requests then have that
        name in their Host header. An address cannot be rebound.
        """
        try:
            name = parse_address(header or "", 80)[0].casefold().rstrip(".")
        except ValueError:
            return False
        known = {"localhost", *(each.casefold() for each in self.host_names)}
        if is_loopback(self.host):
            return is_loopback(name) or name in known
        return _is_address(name) or name in known | {self.host.casefold(), socket.gethostname().casefold()}

    def allows(self, token: str | None, authorization: str | None) -> bool:
        """Return whether a request may read; compare in constant time. A wrong password waits."""
        if self.password is None:
            return hmac.compare_digest((token or "").encode("utf-8", "replace"), self.token.encode())
        given = _password_in(authorization)
        if given is None:
            return False
        if hmac.compare_digest(given, self.password.encode()):
            return True
        with self._guesses:
            time.sleep(WRONG_PASSWORD_SECONDS)
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _password_in(authorization: str | None) -> bytes | None:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.casefold() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return None
