"""Expectations without a network."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mqttkit.errors import UsageError
from mqttkit.expectations.expectation import Ending, Expectation, Progress
from mqttkit.expectations.junit import junit_xml
from mqttkit.expectations.matching import jq_check, schema_check, text_check
from mqttkit.expectations.runner import StepResult
from mqttkit.messages import Message


def after(expectation: Expectation, *payloads: bytes) -> tuple[Ending, bool]:
    """Return the ending after these messages on a/b, and whether it was known before the time limit."""
    progress = Progress(expectation)
    known = [progress.look_at(Message("a/b", payload)) for payload in payloads]
    return progress.ending(), any(known)


READY = (text_check(b"ready"),)


@pytest.mark.parametrize(
    ("expectation", "payloads", "ending", "early"),
    [
        (Expectation(topic_filter="a/#"), [b"x"], Ending.MATCHED, True),
        (Expectation(topic_filter="a/#"), [], Ending.ABSENT, False),
        (Expectation(topic_filter="other"), [b"x"], Ending.ABSENT, False),
        (Expectation(topic_filter="a/#", checks=READY), [b"x", b"ready"], Ending.MATCHED, True),
        (Expectation(topic_filter="a/#", checks=READY), [b"x", b"y"], Ending.WRONG, False),
        (Expectation(topic_filter="a/#", count=2), [b"x"], Ending.WRONG, False),
        (Expectation(topic_filter="a/#", count=2), [b"x", b"y"], Ending.MATCHED, True),
        (Expectation(topic_filter="a/#", none=True), [], Ending.MATCHED, False),
        (Expectation(topic_filter="a/#", none=True), [b"x"], Ending.WRONG, True),
        (Expectation(topic_filter="a/#", none=True, checks=READY), [b"x"], Ending.MATCHED, False),
    ],
)
def test_endings(expectation: Expectation, payloads: list[bytes], ending: Ending, early: bool) -> None:
    """Matched, wrong and absent are told apart; a ending that cannot change any more is known early."""
    assert after(expectation, *payloads) == (ending, early)


def test_order_needs_the_checks_one_after_the_other() -> None:
    """Other messages may come between; the right ones in the wrong order are not enough."""
    expectation = Expectation(topic_filter="#", checks=(text_check(b"1"), text_check(b"2")), in_order=True)
    assert after(expectation, b"1", b"x", b"2") == (Ending.MATCHED, True)
    assert after(expectation, b"2", b"1") == (Ending.WRONG, False)


def test_retained_messages_count_unless_they_are_skipped() -> None:
    """A retained status is a status."""
    for skip, ending in ((False, Ending.MATCHED), (True, Ending.ABSENT)):
        progress = Progress(Expectation(topic_filter="#", skip_retained=skip))
        progress.look_at(Message("a", b"", retain=True))
        assert progress.ending() is ending


@pytest.mark.parametrize(
    ("program", "payload", "problem"),
    [
        ('.state == "ready"', b'{"state":"ready"}', ""),
        ('.state == "ready"', b'{"state":"off"}', '.state == "ready" is false'),
        (".value", b'{"value":0}', ""),
        (".value", b"{}", ".value is null"),
        ("empty", b"{}", "empty is null"),
        (".a", b"[1]", "Cannot index array"),
        (".a", b"not json", "parse error"),
        (".a", b"\xff", "not UTF-8"),
        (".a", b"", "is null"),
    ],
)
def test_jq(program: str, payload: bytes, problem: str) -> None:
    """True is anything but false and null; an error of the program is a reason, not a crash."""
    found = jq_check(program)(Message("a", payload))
    assert (found == "") if problem == "" else (problem in found)


def test_a_schema_names_the_first_problem(tmp_path: Path) -> None:
    """With the place in the payload."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"t": {"type": "number"}}, "required": ["t"]}))
    check = schema_check(path)
    assert check(Message("a", b'{"t":1}')) == ""
    assert check(Message("a", b'{"t":"x"}')) == "$.t: 'x' is not of type 'number'"
    assert check(Message("a", b"{")) == "the payload is not JSON"
    assert check(Message("a", b"[" * 100_000)) == "the payload is not JSON"


@pytest.mark.parametrize(
    ("content", "problem"), [(b"{", "not JSON"), (b'{"type": "nonsense"}', "not a JSON Schema"), (None, "cannot read")]
)
def test_a_schema_that_is_none_is_a_usage_error(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """Before any connection."""
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        schema_check(path)


def test_a_jq_program_that_does_not_compile_is_a_usage_error() -> None:
    """It names the program."""
    with pytest.raises(UsageError, match="not a jq program"):
        jq_check(".a |||")


def test_junit_is_valid_xml_whatever_a_payload_holds() -> None:
    """Control characters, markup and lone surrogates."""
    progress = Progress(Expectation(topic_filter="a/<b>", names=('"x" & \x00',), checks=(text_check(b"x"),)))
    text = "a\x00b <c> & \ud800 \x1b[31m"
    tree = ElementTree.fromstring(junit_xml([StepResult(progress, 1.5)], [text]))
    assert (tree.get("tests"), tree.get("failures"), tree.get("time")) == ("1", "1", "1.500")
    failure = tree.find("testcase/failure")
    assert failure is not None and failure.get("message") == "absent"
    assert failure.text == "a\ufffdb <c> & ? \ufffd[31m"


@pytest.mark.parametrize(
    ("expectation", "text"),
    [
        (Expectation(topic_filter="a"), "1 message on 'a' within 10 s"),
        (Expectation(topic_filter="a", count=3, names=("x", "y")), "3 messages on 'a' matching x and y within 10 s"),
        (Expectation(topic_filter="a", none=True, seconds=0.5), "no message on 'a' within 0.5 s"),
        (
            Expectation(topic_filter="a", names=("x", "y"), checks=READY * 2, in_order=True),
            "2 messages on 'a' matching x, then y within 10 s",
        ),
    ],
)
def test_an_expectation_as_words(expectation: Expectation, text: str) -> None:
    """For reports."""
    assert expectation.text() == text
