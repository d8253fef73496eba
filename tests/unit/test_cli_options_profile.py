"""The command line and the broker package agree on where a profile is."""

from __future__ import annotations

import pytest

from mqttkit.broker.profile import BrokerPaths
from mqttkit.cli.options import default_profile


@pytest.mark.parametrize("state", ["/somewhere/state", "relative", "", None])
def test_default_profile_is_where_the_broker_keeps_it(monkeypatch: pytest.MonkeyPatch, state: str | None) -> None:
    """With XDG_STATE_HOME, without it, and with one that counts for nothing because it is relative."""
    if state is None:
        monkeypatch.delenv("XDG_STATE_HOME")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    assert default_profile() == BrokerPaths.of("default").profile
