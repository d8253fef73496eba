"""Results as JUnit XML, which CI systems show."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from mqttkit.expectations.expectation import Ending
from mqttkit.expectations.runner import StepResult

_ALLOWED = str.maketrans({code: "\ufffd" for code in range(32) if code not in (9, 10, 13)})
"""XML 1.0 has no other control characters."""


def junit_xml(results: Sequence[StepResult], explain: Sequence[str]) -> str:
    """Return one test case for each expectation; `explain` has the report of each."""
    failures = sum(each.ending is not Ending.MATCHED for each in results)
    seconds = sum(each.seconds for each in results)
    cases = [_case(result, text) for result, text in zip(results, explain, strict=True)]
    head = f'<testsuite name="mqttkit expect" tests="{len(results)}" failures="{failures}" time="{seconds:.3f}">'
    return "\n".join(('<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>", ""))


def _case(result: StepResult, text: str) -> str:
    name = quoteattr(result.progress.expectation.text().translate(_ALLOWED))
    head = f'  <testcase classname="mqttkit.expect" name={name} time="{result.seconds:.3f}"'
    if result.ending is Ending.MATCHED:
        return head + "/>"
    body = escape(text.encode("utf-8", "replace").decode().translate(_ALLOWED))
    return f'{head}>\n    <failure message="{result.ending.value}">{body}</failure>\n  </testcase>'
