"""The user's own directories: absolute paths from the environment, defaults below the home directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.directories import config_directory, state_directory


@pytest.mark.parametrize(
    ("directory", "variable", "default"),
    [(state_directory, "XDG_STATE_HOME", ".local/state"), (config_directory, "XDG_CONFIG_HOME", ".config")],
)
def test_the_environment_names_the_directory(directory, variable: str, default: str, monkeypatch: pytest.MonkeyPatch):
    """A relative path counts for nothing, as the XDG Base Directory Specification says."""
    home = Path.home() / default / "mqttkit"
    assert directory({variable: "/somewhere"}) == Path("/somewhere/mqttkit")
    assert directory({}) == directory({variable: ""}) == directory({variable: "relative"}) == home
    monkeypatch.setenv(variable, "/elsewhere")
    assert directory() == Path("/elsewhere/mqttkit")
