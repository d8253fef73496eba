"""Who may read the page."""

from __future__ import annotations

import base64
import socket

import pytest

from mqttkit.errors import UsageError
from mqttkit.web import access
from mqttkit.web.access import PageAccess

PASSWORD = "correct horse battery"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_the_token_is_random_and_in_the_address() -> None:
    first, second = PageAccess(), PageAccess()
    assert first.token != second.token
    assert len(first.token) >= 32
    assert first.address(8090) == f"http://127.0.0.1:8090/?token={first.token}"


def test_only_the_right_token_opens_the_page() -> None:
    page = PageAccess()
    assert page.allows(page.token, None)
    for wrong in (None, "", page.token[:-1], page.token + "x", "ä\ud800"):
        assert not page.allows(wrong, None)
    assert not page.allows(None, basic(page.token))


def test_an_address_of_the_network_needs_a_password() -> None:
    for host in ("0.0.0.0", "192.0.2.7", "::", "example.org"):
        with pytest.raises(UsageError, match="--page-password-file"):
            PageAccess(host=host)
    assert PageAccess(host="::1").password is None


def test_a_short_password_is_an_error_that_does_not_show_it() -> None:
    with pytest.raises(UsageError) as caught:
        PageAccess(password="elevenchars")
    assert "elevenchars" not in str(caught.value)


def test_the_password_opens_the_page_with_any_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_PASSWORD_SECONDS", 0.0)
    page = PageAccess(host="0.0.0.0", port=8090, password=PASSWORD)
    assert page.address(8090) == f"http://{socket.gethostname()}:8090/"
    assert page.allows(None, basic(PASSWORD))
    for wrong in (None, "", "Basic", "Basic !", basic("wrong"), f"Bearer {PASSWORD}"):
        assert not page.allows(None, wrong)
    assert not page.allows(page.token, None)


def test_nothing_secret_is_in_its_representation() -> None:
    page = PageAccess(password=PASSWORD)
    assert PASSWORD not in repr(page)
    assert page.token not in repr(page)


@pytest.mark.parametrize("header", ["127.0.0.1:8090", "localhost:8090", "LOCALHOST", "[::1]:8090", "localhost.:8090"])
def test_loopback_names_are_allowed(header: str) -> None:
    assert PageAccess().allows_host(header)


@pytest.mark.parametrize(
    "header", [None, "", "evil.example", "evil.example:8090", "192.0.2.7", "127.0.0.1.evil.example", "[", ":"]
)
def test_other_names_are_refused_on_loopback(header: str | None) -> None:
    """A name that an attacker points to this machine is in the Host header of the browser's requests."""
    assert not PageAccess().allows_host(header)


def test_on_the_network_addresses_and_known_names_are_allowed() -> None:
    page = PageAccess(host="0.0.0.0", password=PASSWORD, host_names=("Panel.example",))
    for header in ("192.0.2.7:8090", "[2001:db8::1]", f"{socket.gethostname()}:8090", "panel.example", "localhost"):
        assert page.allows_host(header)
    assert not page.allows_host("evil.example:8090")
