"""Checks and what they find: pass, warn, fail, or not checked, which never counts as a pass."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mqttkit.errors import MqttkitError, reason_of

Subject = TypeVar("Subject")


class Verdict(enum.Enum):
    """The verdict of a check."""

    PASSED = "pass"
    WARNED = "warn"
    FAILED = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Result:
    """One result of a check."""

    verdict: Verdict
    detail: str
    """What the check saw, in a sentence."""
    fix: str = ""
    """Command or step that fixes it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result with the name of its check."""

    check: str
    """Name of the check, for scripts."""
    title: str
    """What the check confirms, in words."""
    verdict: Verdict
    """The verdict."""
    detail: str
    """What the check saw."""
    fix: str = ""
    """Command or step that fixes it."""

    def as_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return {
            "check": self.check,
            "title": self.title,
            "verdict": self.verdict.value,
            "detail": self.detail,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A check with its name and its function."""

    name: str
    """For scripts."""
    title: str
    """What it confirms, in words."""
    examine: Callable[[Subject], Iterable[Result]]
    """Makes the check and returns any number of results."""
    obstacles: tuple[Callable[[Subject], str], ...] = ()
    """Each returns why the check cannot be made, or an empty string."""


def passed(detail: str) -> Result:
    """Return a result: the check saw that all is well."""
    return Result(Verdict.PASSED, detail)


def warned(detail: str, fix: str = "") -> Result:
    """Return a result: it works, but a production broker should not be like this."""
    return Result(Verdict.WARNED, detail, fix)


def failed(detail: str, fix: str = "") -> Result:
    """Return a result: it is broken or insecure."""
    return Result(Verdict.FAILED, detail, fix)


def not_checked(why: str) -> Result:
    """Return a result: the check was not possible, or does not apply."""
    return Result(Verdict.NOT_CHECKED, why)


def run_checks(checks: Iterable[Check[Subject]], subject: Subject) -> Iterator[Finding]:
    """Run each check and yield its findings; a check that raises, or returns nothing, counts as not checked."""
    for check in checks:
        for result in _results(check, subject):
            yield Finding(
                check=check.name,
                title=check.title,
                verdict=result.verdict,
                detail=result.detail,
                fix=result.fix,
            )


def _results(check: Check[Subject], subject: Subject) -> list[Result]:
    found: list[Result] = []
    for obstacle in check.obstacles:
        if why := obstacle(subject):
            return [not_checked(why)]
    try:
        found.extend(check.examine(subject))
    except (MqttkitError, OSError, ValueError) as error:
        found.append(not_checked(f"the check failed: {reason_of(error)}"))
    return found or [not_checked("the check returned no result")]
