"""A few of the cases of `make fuzz` in every run of the tests."""

from __future__ import annotations

import pytest

from tests.support import fuzz


@pytest.mark.parametrize("v5", [True, False])
def test_mutated_streams_never_stop_the_client(v5: bool) -> None:
    """Each ends well, or ends the connection in a way that we foresaw; then the client connects again."""
    assert {fuzz.run_case(number, v5=v5) for number in range(200)} == {"ok", "closed", "unexpected"}
