"""The certificate authority: what it signs, for whom, for how long."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest

from mqttkit.broker.certificates.authority import Authority, check_pair, inspect
from mqttkit.errors import UsageError

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
AUTHORITY = Authority.create("test", now=NOW)


def test_a_server_certificate_is_for_loopback_and_the_names_given() -> None:
    """Names and addresses are told apart; loopback is always there."""
    info = inspect(AUTHORITY.sign_server(["broker.example", "192.0.2.7", "2001:db8::1"], now=NOW).certificate)
    assert info.names == ("broker.example", "192.0.2.7", "2001:db8::1", "localhost", "127.0.0.1", "::1")
    assert (info.subject, info.issuer) == ("broker.example", "test")


@pytest.mark.parametrize(
    ("days_later", "state"),
    [(-1, "not yet valid"), (0, "valid"), (334, "valid"), (336, "expiring"), (364, "expiring"), (366, "expired")],
)
def test_thirty_days_before_its_end_it_is_expiring(days_later: int, state: str) -> None:
    """Of 365 days, the last 30 are a warning, and after them it has expired."""
    info = inspect(AUTHORITY.sign_server(now=NOW).certificate)
    assert info.state(NOW + days_later * DAY) == state


def test_a_certificate_does_not_outlive_its_authority() -> None:
    """It ends with it, and an expired authority signs nothing."""
    short = Authority.create("short", days=10, now=NOW)
    assert inspect(short.sign_client("lamp", days=365, now=NOW).certificate).not_after <= NOW + 10 * DAY
    with pytest.raises(UsageError, match="cert renew --ca"):
        short.sign_client("lamp", now=NOW + 11 * DAY)
    renewed = short.renewed(now=NOW + 11 * DAY)
    old = short.sign_server(now=NOW)
    check_pair(old.certificate, old.key, renewed.pem, now=NOW + DAY)


def test_saved_and_loaded_it_signs_on(tmp_path: Path) -> None:
    """The key is for its owner only."""
    AUTHORITY.save(tmp_path / "ca")
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    issued = Authority.load(tmp_path / "ca").sign_server(now=NOW)
    check_pair(issued.certificate, issued.key, AUTHORITY.pem, now=NOW)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """No authority, a foreign key, broken files, a planted link: each is named."""
    with pytest.raises(UsageError, match="broker cert init"):
        Authority.load(tmp_path)
    AUTHORITY.save(tmp_path)
    Authority.create("other", now=NOW).save(tmp_path / "other")
    key = tmp_path / "ca.key"
    key.write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="do not match"):
        Authority.load(tmp_path)
    key.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="cannot be read"):
        Authority.load(tmp_path)
    key.unlink()
    key.symlink_to(tmp_path / "other" / "ca.key")
    with pytest.raises(UsageError, match="symbolic link"):
        Authority.load(tmp_path)
    with pytest.raises(UsageError, match="symbolic link"):
        AUTHORITY.save(tmp_path)


def test_what_a_broker_could_not_serve_is_refused() -> None:
    """Expired, signed by another, with another's key, or is not a certificate at all."""
    one, two = AUTHORITY.sign_server(now=NOW), AUTHORITY.sign_server(now=NOW)
    check_pair(one.certificate, one.key, AUTHORITY.pem, now=NOW)
    with pytest.raises(UsageError, match="expired"):
        check_pair(one.certificate, one.key, AUTHORITY.pem, now=NOW + 400 * DAY)
    with pytest.raises(UsageError, match="does not belong"):
        check_pair(one.certificate, two.key, AUTHORITY.pem, now=NOW)
    with pytest.raises(UsageError, match="did not sign"):
        check_pair(one.certificate, one.key, Authority.create("other", now=NOW).pem, now=NOW)
    with pytest.raises(UsageError, match="is not a certificate"):
        check_pair(b"nonsense", one.key, AUTHORITY.pem, now=NOW)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-" * 64, "ü.example", "a..b", "http://x"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    """Neither name nor address."""
    with pytest.raises(UsageError, match="neither"):
        AUTHORITY.sign_server([name], now=NOW)


def test_bounds_are_kept() -> None:
    """Days and names have limits; nothing shows the key."""
    for days in (0, 36_501):
        with pytest.raises(UsageError, match="days"):
            AUTHORITY.sign_server(days=days, now=NOW)
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(UsageError, match="cannot be for"):
            AUTHORITY.sign_client(name, now=NOW)
    assert "PRIVATE" not in repr(AUTHORITY.sign_client("lamp", now=NOW))
