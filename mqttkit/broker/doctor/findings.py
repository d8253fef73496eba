"""Checks and what they find: pass, warn, fail, or not checked, which never counts as a pass."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mqttkit.errors import MqttkitError

Patient = TypeVar("Patient")


class Verdict(enum.Enum):
    """What a check came to."""

    PASSED = "pass"
    WARNED = "warn"
    FAILED = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Outcome:
    """One thing that a check found."""

    verdict: Verdict
    detail: str
    """What was seen, in a sentence."""
    mend: str = ""
    """Command or step that mends it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One outcome, and the check it is of."""

    check: str
    """Name of the check, for scripts."""
    title: str
    """What the check holds, in words."""
    verdict: Verdict
    """What it came to."""
    detail: str
    """What was seen."""
    mend: str = ""
    """Command or step that mends it."""

    def as_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return {
            "check": self.check,
            "title": self.title,
            "verdict": self.verdict.value,
            "detail": self.detail,
            "mend": self.mend,
        }


@dataclass(frozen=True)
class Check(Generic[Patient]):
    """A question with a name, and the function that finds out."""

    name: str
    """For scripts."""
    title: str
    """What it holds, in words."""
    examine: Callable[[Patient], Iterable[Outcome]]
    """Finds out, with any number of outcomes."""
    obstacles: tuple[Callable[[Patient], str], ...] = ()
    """Each returns why the check cannot be made, or an empty string."""


def passed(detail: str) -> Outcome:
    """It is as it should be, and that was seen."""
    return Outcome(Verdict.PASSED, detail)


def warned(detail: str, mend: str = "") -> Outcome:
    """It works, and is not what a production broker should be."""
    return Outcome(Verdict.WARNED, detail, mend)


def failed(detail: str, mend: str = "") -> Outcome:
    """It is broken or open."""
    return Outcome(Verdict.FAILED, detail, mend)


def not_checked(why: str) -> Outcome:
    """It could not be found out, or there is nothing to find out."""
    return Outcome(Verdict.NOT_CHECKED, why)


def run_checks(checks: Iterable[Check[Patient]], patient: Patient) -> Iterator[Finding]:
    """Run each check and yield what it found; a check that breaks, or finds nothing, was not checked."""
    for check in checks:
        for outcome in _outcomes(check, patient):
            yield Finding(
                check=check.name,
                title=check.title,
                verdict=outcome.verdict,
                detail=outcome.detail,
                mend=outcome.mend,
            )


def _outcomes(check: Check[Patient], patient: Patient) -> list[Outcome]:
    found: list[Outcome] = []
    for obstacle in check.obstacles:
        if why := obstacle(patient):
            return [not_checked(why)]
    try:
        found.extend(check.examine(patient))
    except (MqttkitError, OSError, ValueError) as error:
        found.append(not_checked(f"could not be found out: {error}"))
    return found or [not_checked("nothing was found out")]
