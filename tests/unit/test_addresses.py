"""Addresses as text."""

from __future__ import annotations

import pytest

from mqttkit.addresses import BrokerUrl, is_loopback, parse_address, parse_url, show_address
from mqttkit.errors import UsageError


@pytest.mark.parametrize(("text", "expected"), [
    ("broker", ("broker", 7)), ("broker:1", ("broker", 1)), ("broker:65535", ("broker", 65_535)),
    ("broker:", ("broker", 7)), ("10.0.0.1:1883", ("10.0.0.1", 1883)),
    ("::1", ("::1", 7)), ("[::1]", ("::1", 7)), ("[::1]:8883", ("::1", 8883)), ("[::1]:", ("::1", 7)),
])  # fmt: skip
def test_an_address_is_split_into_host_and_port(text: str, expected: tuple[str, int]) -> None:
    """The default port counts if the text names none; an IPv6 address with a port needs brackets."""
    assert parse_address(text, 7) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("", "no host in ''"), (":1883", "no host in ':1883'"), ("[]:1", "no host"),
    ("broker:0", "port must be 1 to 65535, got '0' in 'broker:0'"), ("broker:65536", "port must be 1 to 65535"),
    ("broker:x", "port must be 1 to 65535, got 'x'"), ("broker:-1", "port must be"), ("broker:\u00b2", "port must be"),
    ("[::1", r"must be \[address\] or \[address\]:port, got '\[::1'"), ("[::1]1883", "must be"),
])  # fmt: skip
def test_a_malformed_address_is_an_error_that_quotes_it(text: str, message: str) -> None:
    """No port outside 1 to 65535, no missing host, no open bracket."""
    with pytest.raises(ValueError, match=message):
        parse_address(text, 7)


@pytest.mark.parametrize(("host", "shown"), [("broker", "broker:1883"), ("::1", "[::1]:1883")])
def test_a_shown_address_parses_back(host: str, shown: str) -> None:
    """IPv6 addresses get brackets."""
    assert show_address(host, 1883) == shown
    assert parse_address(shown, 1) == (host, 1883)


@pytest.mark.parametrize(("host", "loopback"), [
    ("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True),
    ("0.0.0.0", False), ("10.0.0.1", False), ("broker.example", False), ("localhost.example", False),
])  # fmt: skip
def test_loopback_is_recognised_by_name_and_number(host: str, loopback: bool) -> None:
    """A name other than localhost may lead anywhere."""
    assert is_loopback(host) is loopback


PLAIN = {"username": None, "password": None, "tls": False, "websockets": False, "path": ""}


@pytest.mark.parametrize(("url", "expected"), [
    ("mqtt://broker", {"host": "broker", "port": 1883}),
    ("MQTT://Broker/", {"host": "broker", "port": 1883}),
    ("mqtts://broker", {"host": "broker", "port": 8883, "tls": True}),
    ("ws://broker/mqtt", {"host": "broker", "port": 80, "websockets": True, "path": "mqtt"}),
    ("wss://broker:444", {"host": "broker", "port": 444, "tls": True, "websockets": True}),
    ("wss://broker", {"host": "broker", "port": 443, "tls": True, "websockets": True}),
    ("mqtt://[::1]:1/a/b", {"host": "::1", "port": 1, "path": "a/b"}),
    ("mqtt://u@broker", {"host": "broker", "port": 1883, "username": "u"}),
    ("mqtt://u%40x:p%3A%2F@broker", {"host": "broker", "port": 1883, "username": "u@x", "password": "p:/"}),
    ("mqtt://u:a@b@broker", {"host": "broker", "port": 1883, "username": "u", "password": "a@b"}),
    ("mqtt://broker/sensor/#?x=%C3%A9", {"host": "broker", "port": 1883, "path": "sensor/#?x=\u00e9"}),
])  # fmt: skip
def test_a_url_is_split_into_its_parts(url: str, expected: dict[str, object]) -> None:
    """The scheme gives port, TLS and transport; a topic filter keeps its # and ?."""
    assert parse_url(url) == BrokerUrl(**{**PLAIN, **expected})  # type: ignore[arg-type]


@pytest.mark.parametrize(("url", "message"), [
    ("http://broker", "got 'http://broker'"), ("broker", "got 'broker'"), ("", "got ''"), ("mqtt:broker", "got"),
    ("mqtt://", "no host"), ("mqtt://u@/t", "no host"), ("mqtt://[::1/t", r"'mqtt://\[::1/t' is not a broker's URL"),
    ("mqtt://broker:0", "port must be 1 to 65535"), ("mqtt://broker:x", "port must be 1 to 65535"),
    ("user:secret@host/t", "got '\u2026@host/t'"), ("mqtt://user:secret@host:0", "'mqtt://\u2026@host:0' is not"),
])  # fmt: skip
def test_a_malformed_url_is_a_usage_error_without_the_password(url: str, message: str) -> None:
    """The error quotes the URL, but never the user or the password."""
    with pytest.raises(UsageError, match=message) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_equal_urls_are_one_key() -> None:
    """A BrokerUrl is immutable, so it can be in a set."""
    assert len({parse_url("mqtt://host"), parse_url("MQTT://host:1883")}) == 1


def test_the_password_of_a_url_is_not_shown() -> None:
    """A BrokerUrl in a log or a traceback keeps the secret."""
    assert "secret" not in repr(parse_url("mqtt://user:secret@host"))
