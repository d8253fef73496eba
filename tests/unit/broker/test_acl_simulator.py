"""The ACL simulator and the lint, without a broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.broker.accounts.acl import Access, AclFile
from mqttkit.broker.accounts.acl_simulator import check_access, check_subscription, covers, intersection, lint
from mqttkit.errors import TopicError
from mqttkit.topics import matches

filters = st.builds(
    lambda head, body, tail: "/".join(head + body + tail),
    st.sampled_from([[], [], ["$d"]]),
    st.lists(st.sampled_from(["a", "b", "+", ""]), min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
).filter(bool) | st.just("#")
names = st.lists(st.sampled_from(["a", "b", "", "$d"]), min_size=1, max_size=5).map("/".join).filter(bool)


@given(filters, filters, names)
def test_the_intersection_matches_what_both_match(first: str, second: str, name: str) -> None:
    """A name matches the intersection exactly when it matches both filters."""
    shared = intersection(first, second)
    assert (shared is not None and matches(shared, name)) is (matches(first, name) and matches(second, name))


@given(filters, filters, names)
def test_what_is_covered_matches_too(wide: str, narrow: str, name: str) -> None:
    """Whatever matches the narrow filter matches one that covers it."""
    if covers(wide, narrow) and matches(narrow, name):
        assert matches(wide, name)


def test_cover_is_not_too_shy() -> None:
    """The plain cases are seen as covered."""
    for wide, narrow in (
        ("#", "a/b"),
        ("a/#", "a"),
        ("a/+", "a/b"),
        ("+/b", "a/b"),
        ("a/#", "a/+/#"),
        ("a", "a"),
    ):
        assert covers(wide, narrow), (wide, narrow)


@pytest.mark.parametrize(
    ("rules", "wanted", "allowed", "complete"),
    [
        ("topic read a/#", "a/#", True, True),
        ("topic read a/b", "#", True, False),
        ("topic read b\ntopic read a/#", "a/#", True, True),
        ("topic read a/#", "b", False, True),
        ("topic write a/#", "a/#", False, True),
        ("topic read a/b\ntopic deny a/#", "#", False, True),
        ("topic read #\ntopic deny a/#", "+/b", True, False),
        ("topic read #", "$SYS/#", False, True),
    ],
)
def test_a_subscription_is_all_part_or_nothing(rules: str, wanted: str, allowed: bool, complete: bool) -> None:
    """The verdict says whether everything, a part or nothing of the filter would be delivered."""
    verdict = check_subscription(AclFile.parse(f"user anna\n{rules}\n"), wanted, user="anna")
    assert (verdict.allowed, verdict.complete) == (allowed, complete)


def test_the_deciding_rule_is_named() -> None:
    """With its line in the file."""
    acl = AclFile.parse("user anna\ntopic read a/#\ntopic deny a/b\n")
    assert "'deny a/b' (line 3)" in check_access(acl, Access.READ, "a/b", user="anna").reason
    assert "'read a/#' (line 2)" in check_access(acl, Access.READ, "a/c", user="anna").reason
    assert "no rule" in check_access(acl, Access.READ, "c", user="anna").reason


def test_a_name_that_patterns_bar_may_do_nothing_but_by_its_own_rules() -> None:
    """mosquitto denies a user with + or # as soon as it comes to the patterns."""
    acl = AclFile.parse("user a+\ntopic read own\npattern readwrite all/#\n")
    assert check_access(acl, Access.READ, "own", user="a+").allowed
    barred = check_access(acl, Access.READ, "all/b", user="a+")
    assert (barred.allowed, "the file has patterns" in barred.reason) == (False, True)
    assert not check_subscription(acl, "all/#", user="a+").allowed
    shared = check_access(acl, Access.READ, "$share/g/a", user="b")
    assert (shared.allowed, "$share" in shared.reason) == (False, True)


@pytest.mark.parametrize(
    ("topic", "user", "client", "allowed"),
    [
        ("homes/anna/x", "anna", None, True),
        ("homes/bert/x", "anna", None, False),
        ("homes//x", None, None, False),
        ("clients/c1", "anna", "c1", True),
        ("clients/c1", "anna", None, False),
        ("both/anna/c1", "anna", "c1", True),
        ("both/%c/c1", "%c", "c1", True),
        ("both/c1/c1", "%c", "c1", False),
        ("both//c1", None, "c1", False),
        ("both/anna/", "anna", None, False),
        ("100%/x", "anna", None, True),
        ("open/x", None, None, True),
    ],
)
def test_patterns_hold_for_the_names_they_are_filled_with(
    topic: str, user: str | None, client: str | None, allowed: bool
) -> None:
    """%u and %c in one pass: a user named %c is not a client identifier; without a name the pattern does not apply."""
    acl = AclFile.parse(
        "pattern read homes/%u/#\npattern read clients/%c\npattern read both/%u/%c\npattern read 100%/x\n"
        "pattern read open/#\n"
    )
    assert check_access(acl, Access.READ, topic, user=user, client_id=client).allowed is allowed


def test_sys_is_read_only_but_for_a_bridge_s_state() -> None:
    """Whatever the rules say."""
    acl = AclFile.parse("user anna\ntopic readwrite $SYS/#\n")
    denied = check_access(acl, Access.WRITE, "$SYS/a", user="anna")
    assert (denied.allowed, "no client write $SYS" in denied.reason) == (False, True)
    assert check_access(acl, Access.READ, "$SYS/a", user="anna").allowed
    assert check_access(acl, Access.WRITE, "$SYS/broker/connection/b/state", user="anna").allowed


def test_rules_that_are_known_to_be_meant_are_not_linted() -> None:
    """The operator may write everything; without the password file nothing is said of who has a password."""
    text = "user op\ntopic readwrite #\n"
    assert lint(AclFile.parse(text), own=["op"]) == []
    assert [finding.message for finding in lint(AclFile.parse(text))] != []


def test_only_rules_after_a_denial_of_their_topics_have_no_effect() -> None:
    """The denial itself, and what it does not cover, are not mentioned; the finding has the line of the rule."""
    (found,) = lint(AclFile.parse("user a\ntopic deny b/#\ntopic read b/c\ntopic read d\n"), users=["a"])
    assert (found.line, "'read b/c'" in found.message, "has no effect" in found.message) == (3, True, True)


def test_a_user_without_rules_is_found_only_if_no_pattern_can_apply() -> None:
    """Patterns hold for every user; a finding on a user has no line."""
    assert lint(AclFile.parse("pattern read commands/%u\n"), users=["a"]) == []
    assert lint(AclFile.parse("user a\ntopic read b\n"), users=["a"]) == []
    (found,) = lint(AclFile.parse("user a\ntopic read b\n"), users=["a", "b"])
    assert (found.line, "user 'b' has no rule" in found.message) == (0, True)


def test_what_is_no_topic_is_refused() -> None:
    """A wildcard is not a topic name, and a misplaced # is not a filter."""
    with pytest.raises(TopicError):
        check_access(AclFile(), Access.READ, "a/#", user="anna")
    with pytest.raises(TopicError):
        check_subscription(AclFile(), "a/#/b", user="anna")


@pytest.mark.parametrize(
    ("text", "message", "serious"),
    [
        ("topic read a", "clients without a user name", True),
        ("pattern read a", "neither %u nor %c", True),
        ("pattern write homes/%c", "any client identifier", True),
        ("user a\ntopic read homes/%u", "fills in %u and %c only", False),
        ("user a\ntopic read $share/g/a", "never matches", False),
        ("user a\ntopic read", "is the filter missing", False),
        ("user a\ntopic write #", "user 'a' may write every topic", False),
        ("topic write #", "clients without a user name may write every topic", False),
        ("user a\ntopic write $SYS/a", "no client write $SYS", False),
        ("user a\ntopic read b\ntopic read b", "is a duplicate", False),
        ("user a\ntopic read b/c\ntopic deny b/#", "has no effect", False),
        ("user a+\npattern read %u", "may do nothing", True),
        ("user zoe\ntopic read b", "no password", False),
        ("user b\ntopic read b", "user 'a' has no rule", False),
    ],
)
def test_the_lint_finds(text: str, message: str, serious: bool) -> None:
    """Each trap of ACL files is found and named."""
    found = [finding for finding in lint(AclFile.parse(text), users=["a", "a+", "b"]) if message in finding.message]
    assert found
    assert found[0].serious is serious


def test_the_lint_is_silent_on_a_sound_file() -> None:
    """A correct file has no findings."""
    text = "user a\ntopic read commands/a/#\ntopic write sensors/a/#\npattern write status/%u\n"
    assert lint(AclFile.parse(text), users=["a"]) == []
