"""Addresses as text."""

from __future__ import annotations

import pytest

from mqttkit.addresses import is_loopback, parse_address, show_address


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
