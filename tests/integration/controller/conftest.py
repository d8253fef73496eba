"""The broker of the controllers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto, mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto of the test's own: controllers of the same names leave sessions, and the next ones get them."""
    with mosquitto(tmp_path / "mosquitto", "max_queued_messages 100000") as running:
        yield running
