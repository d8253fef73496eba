"""Cache which tenants a slow registry knows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

CACHE_ENTRIES = 10_000
"""Maximum number of answers in the cache, known and unknown tenants together."""
KNOWN_SECONDS = 30.0
"""How long a removed tenant may still be accepted."""
UNKNOWN_SECONDS = 2.0
"""How long an added tenant may still be refused."""


class AnswerCache:
    """Remember a bounded number of answers for a bounded time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, entries: int = CACHE_ENTRIES) -> None:
        self._clock = clock
        self._entries = entries
        self._answers: OrderedDict[str, tuple[bool, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def known(self, tenants: set[str], ask: Callable[[list[str]], set[str]]) -> set[str]:
        """Return the known tenants; call `ask` for those that are not in the cache."""
        now = self._clock()
        found: set[str] = set()
        missing: list[str] = []
        for tenant in tenants:
            is_known, until = self._answers.get(tenant, (False, -1.0))
            if until < now:
                missing.append(tenant)
            elif is_known:
                found.add(tenant)
        if missing:
            answered = ask(missing)
            found |= answered
            for tenant in missing:
                self._remember(tenant, tenant in answered, now)
        return found

    def _remember(self, tenant: str, is_known: bool, now: float) -> None:
        self._answers.pop(tenant, None)
        self._answers[tenant] = (is_known, now + (KNOWN_SECONDS if is_known else UNKNOWN_SECONDS))
        if len(self._answers) > self._entries:
            self._answers.popitem(last=False)
