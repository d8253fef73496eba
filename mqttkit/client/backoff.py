"""How long to wait between rounds of tries to connect."""

from __future__ import annotations

import random

from mqttkit.settings import ReconnectSettings


class Backoff:
    """Delays between rounds of tries, in seconds: initial, doubled up to max, with full jitter where asked."""

    def __init__(self, settings: ReconnectSettings) -> None:
        self._settings = settings
        self._failures = 0

    def next(self) -> float:
        """Return the next delay."""
        settings = self._settings
        doublings = min(self._failures, 32) if settings.exponential_backoff else 0
        self._failures += 1
        delay = min(settings.initial_delay * 2**doublings, settings.max_delay)
        return random.uniform(0, delay) if settings.jitter else delay  # noqa: S311  # spreads load, hides nothing

    def reset(self) -> None:
        """Begin again at the initial delay."""
        self._failures = 0
