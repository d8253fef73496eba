"""The findings of `broker doctor` and `doctor` on stdout."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Container, Iterable

import click

from mqttkit.broker.doctor.findings import Finding, Verdict
from mqttkit.cli.output.render import on_terminal
from mqttkit.formats.visible import visible

COLOURS = {
    Verdict.PASSED: "green",
    Verdict.WARNED: "yellow",
    Verdict.FAILED: "red",
    Verdict.NOT_CHECKED: "bright_black",
}
INDENT = 32
"""Where the detail of a finding begins."""


def show_findings(findings: Iterable[Finding], *, as_json: bool, reaching: Container[str] = ()) -> int:
    """Print each finding as it comes, then a summary; return the exit code.

    That is 1 if a check failed, or 3 if it is one of `reaching`: the checks that the broker can be reached.
    """
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            show_finding(finding)
    counts = Counter(finding.verdict for finding in found)
    if as_json:
        summary = {verdict.value: counts[verdict] for verdict in Verdict}
        click.echo(json.dumps({"findings": [one.as_dict() for one in found], "summary": summary}))
    else:
        click.echo(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
    failed = [finding.check for finding in found if finding.verdict is Verdict.FAILED]
    return 3 if any(check in reaching for check in failed) else 1 if failed else 0


def show_finding(finding: Finding) -> None:
    """Print one finding: result, check, detail, and the command that fixes it."""
    verdict = click.style(f"{finding.verdict.value:<11}", fg=COLOURS[finding.verdict])
    detail = _wrapped(visible(finding.detail)) if on_terminal() else finding.detail
    click.echo(f"{verdict} {finding.check:<19} {detail}")
    if finding.fix and finding.verdict is not Verdict.PASSED:
        click.echo(f"{'':<{INDENT}}-> {finding.fix}")


def _wrapped(detail: str) -> str:
    """Return text that continues on the next lines of the terminal, each below the first."""
    width = max(20, shutil.get_terminal_size().columns - INDENT)
    return f"\n{'':<{INDENT}}".join(textwrap.wrap(detail, width, break_on_hyphens=False))
