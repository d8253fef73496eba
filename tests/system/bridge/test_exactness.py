"""Each metric is stored once, whoever is killed: the short version of `make soak-bridge`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.soak import KINDS, soak

pytestmark = pytest.mark.system


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_bridge_broker_and_sink_lose_and_double_nothing(kind: str, tmp_path: Path) -> None:
    """Bridge (SIGKILL), broker (SIGTERM) and sink (SIGKILL or a lock) are interrupted under load, each once."""
    result = soak(kind, tmp_path, count=6_000, kills=3, seed=KINDS.index(kind))
    assert result.exact, result
    assert set(result.kills.values()) == {1}
