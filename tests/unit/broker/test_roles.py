"""Accounts: both files change together, and only those that must."""

from __future__ import annotations

import pytest

from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.acl_simulator import check_access, check_subscription
from mqttkit.broker.accounts.roles import ROLES, AccountFiles
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.errors import UsageError

START = AccountFiles.parse(b"", b"user mqttkit\ntopic readwrite #\n").add("anna", "password", iterations=1)


def test_a_device_reads_its_commands_and_writes_its_own_topics() -> None:
    """And nothing of another device."""
    acl = START.add("lamp", "password", role="device", iterations=1).acl
    for access, topic, allowed in (
        (Access.READ, "commands/lamp/on", True),
        (Access.READ, "commands/other/on", False),
        (Access.WRITE, "commands/lamp/on", False),
        (Access.WRITE, "sensors/lamp/temperature", True),
        (Access.WRITE, "status/lamp", True),
        (Access.WRITE, "events/lamp/door", True),
        (Access.WRITE, "sensors/other/temperature", False),
        (Access.READ, "sensors/lamp/temperature", False),
    ):
        assert check_access(acl, access, topic, user="lamp").allowed is allowed, (access, topic)
    assert not check_subscription(acl, "$SYS/#", user="lamp").allowed


def test_a_metrics_device_writes_metrics_as_its_own_agent() -> None:
    """For any tenant, until its rule names one; it reads none, and has the rights of a device."""
    tenant, other = "6f1d7c1e-0000-4000-8000-000000000001", "6f1d7c1e-0000-4000-8000-000000000002"
    files = START.add("lamp", "password", role="metrics-device", iterations=1)
    bound = files.revoke("lamp", "metrics/+/lamp/#", Access.WRITE).grant(
        "lamp", Access.WRITE, f"metrics/{tenant}/lamp/#"
    )
    for access, topic, allowed, after in (
        (Access.WRITE, f"metrics/{tenant}/lamp/temperature", True, True),
        (Access.WRITE, f"metrics/{other}/lamp/temperature", True, False),
        (Access.WRITE, f"metrics/{tenant}/other/temperature", False, False),
        (Access.WRITE, "metrics/_mqttkit/canary/x", False, False),
        (Access.READ, f"metrics/{tenant}/lamp/temperature", False, False),
        (Access.WRITE, "sensors/lamp/temperature", True, True),
    ):
        assert check_access(files.acl, access, topic, user="lamp").allowed is allowed, (access, topic)
        assert check_access(bound.acl, access, topic, user="lamp").allowed is after, (access, topic)


def test_a_monitor_reads_everything_and_writes_nothing() -> None:
    """$SYS included."""
    acl = START.add("eye", "password", role="monitor", iterations=1).acl
    assert check_subscription(acl, "#", user="eye").complete
    assert check_subscription(acl, "$SYS/#", user="eye").complete
    assert not check_access(acl, Access.WRITE, "a", user="eye").allowed


@pytest.mark.parametrize("role", ROLES)
def test_no_role_writes_beyond_its_topics(role: str) -> None:
    """Only $SYS-free, named trees; a user of the same name elsewhere gains nothing."""
    acl = START.add("x", "password", role=role, iterations=1).acl
    assert not check_access(acl, Access.WRITE, "anything", user="x").allowed
    assert not check_access(acl, Access.WRITE, "status/y", user="x").allowed
    assert not check_access(acl, Access.WRITE, "status/x", user="anna").allowed


def test_only_changed_files_are_written() -> None:
    """A new password leaves the ACL file alone, a grant the password file."""
    assert list(START.set_password("anna", "another", iterations=1).changed_from(START)) == [PASSWORD_FILE]
    assert list(START.grant("anna", Access.READ, "a").changed_from(START)) == [ACL_FILE]
    assert START.changed_from(START) == {}
    gone = START.grant("anna", Access.READ, "a").remove("anna")
    assert "anna" not in gone.acl.render() + gone.passwords.render()


def test_a_name_used_again_inherits_no_rules() -> None:
    """Rules of a former user of the name are dropped when it is added."""
    files = AccountFiles.parse(b"", b"user ghost\ntopic readwrite #\n").add("ghost", "password", iterations=1)
    assert not check_access(files.acl, Access.READ, "a", user="ghost").allowed


def test_bad_requests_are_refused() -> None:
    """Taken names, unknown users, unknown roles, and the users that mqttkit itself logs in as."""
    with pytest.raises(UsageError, match="already exists"):
        START.add("anna", "password")
    with pytest.raises(UsageError, match="unknown role"):
        START.add("bert", "password", role="king")
    for change in (
        lambda: START.set_password("bert", "password"),
        lambda: START.remove("bert"),
        lambda: START.grant("bert", Access.READ, "a"),
        lambda: START.revoke("bert", "a"),
    ):
        with pytest.raises(UsageError, match="user 'bert' does not exist"):
            change()
    with pytest.raises(UsageError, match="belongs to mqttkit"):
        START.remove("mqttkit")


def test_a_missing_or_undecodable_file_is_an_error() -> None:
    """Never taken for an empty one: that would throw every user out, or let everybody in."""
    with pytest.raises(UsageError, match="config/passwd is missing"):
        AccountFiles.parse(None, b"")
    with pytest.raises(UsageError, match="config/acl is not UTF-8"):
        AccountFiles.parse(b"", b"\xff")
