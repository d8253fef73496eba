"""Long commands on a terminal show how far they are."""

from __future__ import annotations

import pytest

from tests.support.brokers import Mosquitto
from tests.support.terminals import on_terminal

pytestmark = pytest.mark.system


@pytest.mark.parametrize("words", ["node sensor --duration 600", "bench roundtrip --rate 100 --duration 600"])
def test_the_percentage_is_shown(shared_broker: Mosquitto, words: str) -> None:
    """It appears while the command runs."""
    with on_terminal(*words.split(), port=shared_broker.port) as terminal:
        terminal.wait_for(b" %", 60)
