"""The command line and the broker package agree on where a profile is."""

from __future__ import annotations

import pytest

from mqttkit.broker.profile import BrokerPaths, BrokerSpec, save_spec
from mqttkit.cli.options.loading import default_profile, profile_values
from mqttkit.errors import UsageError


@pytest.mark.parametrize("state", ["/somewhere/state", "relative", "", None])
def test_default_profile_is_where_the_broker_keeps_it(monkeypatch: pytest.MonkeyPatch, state: str | None) -> None:
    """With XDG_STATE_HOME, without it, and with one that counts for nothing because it is relative."""
    if state is None:
        monkeypatch.delenv("XDG_STATE_HOME")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    assert default_profile() == BrokerPaths.of("default").profile


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    """`--broker` of a broker that was never set up."""
    paths = BrokerPaths.of("edge")
    paths.directory.mkdir(parents=True)
    save_spec(paths, BrokerSpec(name="edge"))
    with pytest.raises(UsageError, match=r"no broker named 'other'.*: edge$"):
        profile_values("other")
