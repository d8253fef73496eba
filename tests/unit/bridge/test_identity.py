"""Client identifiers that survive a restart."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mqttkit.bridge.identity import Identity, stored_identities
from mqttkit.errors import BridgeError


def test_identity_is_stable_private_and_exclusive(tmp_path: Path) -> None:
    """Started again it is the same; a second one at the same time is another; other purposes have their own."""
    with Identity("broker", "filter", directory=tmp_path) as first:
        with Identity("broker", "filter", directory=tmp_path) as second:
            assert first.client_id != second.client_id
        with Identity("broker", "other", directory=tmp_path) as third:
            assert third.client_id not in (first.client_id, second.client_id)
        remembered = first.client_id
    with Identity("broker", "filter", directory=tmp_path) as again:
        assert again.client_id == remembered
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(file.name for file in files) == ["client-id-0"] * 2 + ["client-id-1"] + ["purpose.json"] * 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_identity_that_cannot_be_kept_says_where(tmp_path: Path) -> None:
    """Without a place to write the bridge does not start: a session under a passing name would be lost."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeError, match="file"), Identity("x", directory=tmp_path / "file"):
        pass


def test_identity_remembers_that_it_had_a_session(tmp_path: Path) -> None:
    """A broker that does not have the session of an earlier run has lost it."""
    with Identity("broker", directory=tmp_path) as first:
        assert not first.had_session
        first.remember_session()
    with Identity("broker", directory=tmp_path) as second:
        assert (second.client_id, second.had_session) == (first.client_id, True)
        second.forget_session()
    with Identity("broker", directory=tmp_path) as third:
        assert (third.client_id, third.had_session) == (first.client_id, False)


def test_identity_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    """Its session has messages: the bridge continues with it under the normal form of its purpose."""
    with Identity("127.0.0.1", directory=tmp_path) as old:
        pass
    with Identity("localhost", earlier=("127.0.0.1",), directory=tmp_path) as new:
        assert new.client_id == old.client_id
    with Identity("localhost", earlier=("127.0.0.1",), directory=tmp_path) as again:
        assert again.client_id == old.client_id


def test_stored_identities_say_what_they_are_for(tmp_path: Path) -> None:
    """`bridge sessions list` shows them: whether a bridge runs with it, and whether the broker has a session."""
    with Identity("broker", "metrics/#", "sqlite:x", directory=tmp_path) as running:
        running.remember_session()
        with Identity("broker", "$share/g/metrics/#", "sqlite:y", directory=tmp_path):
            pass
        found = {stored.topic_filter: stored for stored in stored_identities(tmp_path)}
        one, other = found["metrics/#"], found["$share/g/metrics/#"]
        assert (one.client_id, one.in_use, one.had_session) == (running.client_id, True, True)
        assert (other.purpose[2], other.in_use, other.had_session) == ("sqlite:y", False, False)
        with pytest.raises(BridgeError, match="a bridge runs with"):
            one.forget_session()
    one.forget_session()
    assert not any(stored.had_session or stored.in_use for stored in stored_identities(tmp_path))
