"""Network addresses as text: parse `host:port` and URLs, show an address, recognise loopback. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from mqttkit.errors import UsageError

SCHEMES = {
    "mqtt": (1883, False, False),
    "mqtts": (8883, True, False),
    "ws": (80, False, True),
    "wss": (443, True, True),
}
"""By URL scheme: the usual port, whether it uses TLS, whether it uses WebSockets."""
SOCKS_PORT, MAX_SOCKS_TEXT = 1080, 255
URL_FORM = "mqtt(s)://[user[:password]@]host[:port] or ws(s)://…"


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """Split `host`, `host:port`, `[v6]:port` or a bare IPv6 address into (host, port); raise ValueError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":"):
            raise ValueError(f"must be [address] or [address]:port, got {text!r}")
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError(f"no host in {text!r}")
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(f"port must be 1 to 65535, got {port!r} in {text!r}")
    return host, int(port)


def show_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address; for port 0 the host, which is a Unix socket's path."""
    if port == 0:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class BrokerUrl:
    """The parts of mqtt(s)://[user[:password]@]host[:port][/path], or of ws(s)://… in the same form."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    websockets: bool
    path: str
    """Everything after the first slash, percent-decoded: `?` and `#` are part of it."""


def parse_url(url: str) -> BrokerUrl:
    """Split the URL of a broker; raise UsageError, which never shows a password."""
    from urllib.parse import unquote  # 2 ms, and few commands are given a URL

    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise UsageError(f"a broker's URL is {URL_FORM}, got {_without_password(url)!r}")
    default_port, tls, websockets = SCHEMES[scheme.lower()]
    authority, _, path = rest.partition("/")
    user, _, address = authority.rpartition("@")
    try:
        host, port = parse_address(address, default_port)
    except ValueError as error:
        raise UsageError(f"{_without_password(url)!r} is not a broker's URL: {error}", hint=f"Use {URL_FORM}") from None
    name, _, password = user.partition(":")
    return BrokerUrl(
        host=host.lower(),
        port=port,
        username=unquote(name) or None,
        password=unquote(password) or None,
        tls=tls,
        websockets=websockets,
        path=unquote(path),
    )


@dataclass(frozen=True)
class ProxyUrl:
    """The parts of socks5h://[user[:password]@]host[:port]."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_proxy(url: str) -> ProxyUrl:
    """Split the URL of a proxy; raise ValueError, which never shows a password."""
    from urllib.parse import unquote

    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() != "socks5h":
        raise ValueError("must be socks5h://[user[:password]@]host[:port]")
    user, _, address = rest.rstrip("/").rpartition("@")
    host, port = parse_address(address, SOCKS_PORT)
    name, _, password = user.partition(":")
    found = ProxyUrl(host, port, unquote(name) or None, unquote(password) or None)
    if max(len((part or "").encode()) for part in (found.host, found.username, found.password)) > MAX_SOCKS_TEXT:
        raise ValueError(f"must have at most {MAX_SOCKS_TEXT} bytes in each part")
    return found


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    scheme, separator, _ = head.partition("://")
    return f"{scheme if separator else ''}{separator}…@{tail}" if at else url
