"""How many files a broker's process may have open."""

from __future__ import annotations

import resource

from mqttkit.broker.backends.local_process import descriptor_limit


def test_the_limit_is_raised_for_the_child_and_never_lowered() -> None:
    """This process may have more files open than the broker needs: it could not start a child with a lower limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, before[1]))
    try:
        with descriptor_limit(177):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1_000
        with descriptor_limit(1_234):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1_234
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
