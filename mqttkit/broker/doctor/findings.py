"""Checks and what they find: pass, warn, fail, or not checked, which never counts as a pass."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mqttkit.errors import MqttkitError

Subject = TypeVar("Subject")


class Verdict(enum.Enum):
    """What a check came to."""

    PASSED = "pass"
    WARNED = "warn"
    FAILED = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Result:
    """One thing that a check found."""

    verdict: Verdict
    detail: str
    """What was seen, in a sentence."""
    fix: str = ""
    """Command or step that mends it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result, and the check it is of."""

    check: str
    """Name of the check, for scripts."""
    title: str
    """What the check holds, in words."""
    verdict: Verdict
    """What it came to."""
    detail: str
    """What was seen."""
    fix: str = ""
    """Command or step that mends it."""

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
    """A question with a name, and the function that finds out."""

    name: str
    """For scripts."""
    title: str
    """What it holds, in words."""
    examine: Callable[[Subject], Iterable[Result]]
    """Finds out, with any number of outcomes."""
    obstacles: tuple[Callable[[Subject], str], ...] = ()
    """Each returns why the check cannot be made, or an empty string."""


def passed(detail: str) -> Result:
    """It is as it should be, and that was seen."""
    return Result(Verdict.PASSED, detail)


def warned(detail: str, fix: str = "") -> Result:
    """It works, and is not what a production broker should be."""
    return Result(Verdict.WARNED, detail, fix)


def failed(detail: str, fix: str = "") -> Result:
    """It is broken or open."""
    return Result(Verdict.FAILED, detail, fix)


def not_checked(why: str) -> Result:
    """It could not be found out, or there is nothing to find out."""
    return Result(Verdict.NOT_CHECKED, why)


def run_checks(checks: Iterable[Check[Subject]], subject: Subject) -> Iterator[Finding]:
    """Run each check and yield what it found; a check that breaks, or finds nothing, was not checked."""
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
        found.append(not_checked(f"could not be found out: {error}"))
    return found or [not_checked("nothing was found out")]
