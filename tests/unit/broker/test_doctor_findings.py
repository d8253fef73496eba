"""Checks: what does not come to a verdict never counts as a pass."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click.testing
import pytest

from mqttkit.broker.doctor.checklist import CHECKS
from mqttkit.broker.doctor.files import BEGIN, END, without_own_errors
from mqttkit.broker.doctor.findings import (
    Check,
    Finding,
    Result,
    Verdict,
    failed,
    not_checked,
    passed,
    run_checks,
    warned,
)
from mqttkit.broker.file_facts import FileFact
from mqttkit.cli.output.findings import show_findings
from mqttkit.errors import LifecycleError


def run(examine: object, *obstacles: object) -> list[Finding]:
    check = Check("name", "title", examine, obstacles)  # type: ignore[arg-type]
    return list(run_checks([check], None))


def test_each_outcome_is_a_finding_with_its_check():
    found = run(lambda _: [passed("good"), failed("bad", "fix it")])
    assert [(one.check, one.verdict, one.detail, one.fix) for one in found] == [
        ("name", Verdict.PASSED, "good", ""),
        ("name", Verdict.FAILED, "bad", "fix it"),
    ]


@pytest.mark.parametrize("error", [LifecycleError("broke"), OSError("broke"), ValueError("broke")])
def test_a_check_that_breaks_was_not_checked(error: Exception):
    def examine(_: object) -> Iterator[Result]:
        yield passed("half of it")
        raise error

    assert [one.verdict for one in run(examine)] == [Verdict.PASSED, Verdict.NOT_CHECKED]


def test_a_check_that_finds_nothing_was_not_checked():
    assert [one.verdict for one in run(lambda _: [])] == [Verdict.NOT_CHECKED]


def test_an_obstacle_keeps_the_check_from_being_made():
    def examine(_: object) -> list[Result]:
        raise AssertionError("made all the same")

    found = run(examine, lambda _: "", lambda _: "no TLS")
    assert [(one.verdict, one.detail) for one in found] == [(Verdict.NOT_CHECKED, "no TLS")]


def test_names_of_checks_are_for_scripts_and_there_once():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalpha() and name.islower() for name in names)


@pytest.mark.parametrize(
    ("outcome", "code"), [(passed("x"), 0), (warned("x"), 0), (not_checked("x"), 0), (failed("x"), 1)]
)
@pytest.mark.parametrize("as_json", [True, False])
def test_only_a_failure_ends_with_1(outcome: Result, code: int, as_json: bool):
    @click.command()
    def command() -> None:
        assert show_findings(run(lambda _: [outcome]), as_json=as_json) == code

    done = click.testing.CliRunner().invoke(command, catch_exceptions=False)
    if as_json:
        shown = json.loads(done.output)
        assert shown["summary"][outcome.verdict.value] == 1
        assert shown["findings"][0]["verdict"] == outcome.verdict.value
    else:
        assert done.output.startswith(outcome.verdict.value)


def fact(**given: object) -> FileFact:
    values = {"name": "config/acl", "place": "/x", "uid": 5, "wanted": 5, "mode": 0o600, "link": False, **given}
    return FileFact(directory=False, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "trouble"),
    [
        ({"link": True}, "symbolic link"),
        ({"uid": 0}, "belongs to uid 0"),
        ({"mode": 0o640}, "other users"),
        ({"mode": 0o604}, "other users"),
        ({"mode": 0o200}, "cannot read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(given: dict[str, object], trouble: str):
    assert trouble in " ".join(fact(**given).problems())


def test_a_file_as_it_should_be_has_no_trouble():
    assert not list(fact().problems())


def test_a_missing_file_is_named_without_its_error_number():
    def examine(_: object) -> Iterator[Result]:
        open("/proc/0/status").close()
        yield passed("never reached")

    assert run(examine)[0].detail == "the check failed: No such file or directory: /proc/0/status"


def test_tls_errors_of_an_examination_do_not_count_but_others_do():
    error = "1: OpenSSL Error[0]: error:0A000102:SSL routines::unsupported protocol"
    lines = [
        error,
        f"2: New client connected from 127.0.0.1:4 as {BEGIN} (p2, c1, k30, u'mqttkit').",
        error,
        "3: Error saving in-memory database, out of space?",
        f"4: New client connected from 127.0.0.1:4 as {END} (p2, c1, k30, u'mqttkit').",
        error,
    ]
    assert list(without_own_errors(lines)) == [lines[index] for index in (0, 1, 3, 4, 5)]
