"""`--fail-if` and `--baseline`: the conditions under which a run fails."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mqttkit.bench.report.result import FORMAT, METRICS, show
from mqttkit.errors import UsageError

ALIASES = {"p99.9": "p999", "cpu": "cpu_receive"}
UNITS = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}
"""Factors to milliseconds, for latencies; other metrics have no unit."""
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([a-z_0-9.]+)\s*(>=|<=|==|!=|>|<)\s*([0-9_]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*(us|ms|s|)\s*")


@dataclass(frozen=True)
class Condition:
    """One `--fail-if`."""

    text: str
    metric: str
    compare: str
    limit: float

    def failure(self, metrics: Mapping[str, float]) -> str:
        """Return why the metrics fail the condition; an empty string if they do not."""
        value = metrics.get(self.metric)
        if value is None:
            return f"{self.text}: the run did not measure {METRICS[self.metric].text}"
        if not OPERATORS[self.compare](value, self.limit):
            return ""
        return f"{self.text}: {METRICS[self.metric].text} is {show(value)} {METRICS[self.metric].unit}"


def parse_condition(text: str) -> Condition:
    """Parse `p99>20ms`; raise UsageError."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"--fail-if {text!r} is not METRIC OPERATOR NUMBER", hint="For example: --fail-if 'p99>20ms'")
    name, compare, number, unit = match.groups()
    metric = ALIASES.get(name, name)
    if metric not in METRICS:
        raise UsageError(f"--fail-if {text!r}: unknown metric {name!r}", hint=f"Choose one of: {', '.join(METRICS)}")
    if unit and METRICS[metric].unit != "ms":
        raise UsageError(f"--fail-if {text!r}: write {name} without a unit; it is in {METRICS[metric].unit}")
    return Condition(text, metric, compare, float(number) * UNITS[unit])


@dataclass(frozen=True)
class Baseline:
    """An earlier run, for comparison."""

    path: str
    metrics: Mapping[str, float]
    tolerance: float
    """Allowed deterioration, as a fraction."""

    def failures(self, metrics: Mapping[str, float]) -> list[str]:
        """Return a line for each metric that is worse than the tolerance allows."""
        found = []
        for name, before in self.metrics.items():
            better = METRICS[name].more_is_better if name in METRICS else None
            now = metrics.get(name)
            if better is None or now is None:
                continue
            limit = before * (1 - self.tolerance) if better else before * (1 + self.tolerance)
            if (now < limit) if better else (now > limit):
                found.append(f"{METRICS[name].text}: {show(now)}, before {show(before)} {METRICS[name].unit}")
        return found


def read_baseline(path: str, tolerance: float) -> Baseline:
    """Read the output of `--json`; raise UsageError if the file is something else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read baseline {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"baseline {path} is not JSON: {error}") from error
    metrics = found.get("metrics") if isinstance(found, dict) else None
    if not isinstance(metrics, dict) or found.get("format") != FORMAT:
        raise UsageError(f"baseline {path} is not a result of: mqttkit bench … --json")
    if not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise UsageError(f"baseline {path} contains metrics that are not numbers")
    if found.get("partial"):
        raise UsageError(f"baseline {path} is a partial result: {found['partial']}")
    return Baseline(path, metrics, tolerance)
