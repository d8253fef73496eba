"""The ACL file's model: parsing, writing, granting, revoking."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.broker.accounts.acl import Access, AclFile, AclRule
from mqttkit.errors import UsageError

TEXT = """# first line
topic read public/#
user anna
topic read a/+
topic a/b
user bert
topic deny secret/#
user anna
topic write c
pattern readwrite homes/%u/#
"""


def test_lines_count_for_whom_they_stand_under() -> None:
    """Before any user: anonymous; after one: that user, sections joined; patterns: everybody."""
    acl = AclFile.parse(TEXT)
    assert acl.anonymous == (AclRule(Access.READ, "public/#"),)
    assert acl.users == {
        "anna": (AclRule(Access.READ, "a/+"), AclRule(Access.READWRITE, "a/b"), AclRule(Access.WRITE, "c")),
        "bert": (AclRule(Access.DENY, "secret/#"),),
    }
    assert acl.patterns == (AclRule(Access.READWRITE, "homes/%u/#"),)
    assert [rule.line for rule in acl.users["anna"]] == [4, 5, 9]


def test_written_and_read_again_it_is_the_same() -> None:
    """Rules and the comment at the top survive a round trip."""
    acl = AclFile.parse(TEXT)
    again = AclFile.parse(acl.render())
    assert again == acl
    assert again.comments == ("# first line",)


@given(st.text(max_size=120) | st.lists(st.sampled_from(TEXT.split("\n")), max_size=12).map("\n".join))
def test_any_text_parses_to_what_renders_the_same_or_is_a_usage_error(text: str) -> None:
    """No content raises anything else."""
    try:
        acl = AclFile.parse(text)
    except UsageError:
        return
    assert AclFile.parse(acl.render()) == acl


def test_nul_is_no_character_of_a_file() -> None:
    """mosquitto would read only the text before it."""
    with pytest.raises(UsageError, match="NUL"):
        AclFile.parse("user a\ntopic read b\0c\n")


def test_a_broken_line_is_named() -> None:
    """File, line and reason."""
    with pytest.raises(UsageError, match="config/acl:2: access 'reed' is not"):
        AclFile.parse("user a\ntopic reed b\n", where="config/acl")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("user ", "'user' without a name"),
        ("topic", "without a topic filter"),
        ("topic read a/#/b", "a misplaced wildcard"),
        ("topic read a+", "a misplaced wildcard"),
        ("topic read " + "é" * 32_768, "longer than 65,535 bytes"),
        ("topic read " + "/" * 201, "more than 200 levels"),
        ("tropic read a", "'tropic' is not"),
    ],
)
def test_a_line_that_mosquitto_refuses_is_refused(line: str, reason: str) -> None:
    """It would quit at the start, and without any check of rights go on at a reload."""
    with pytest.raises(UsageError, match=reason):
        AclFile.parse(f"user a\n{line}\n")


@pytest.mark.parametrize("topic", ["/" * 200, "é" * 32_767, "a/+/b/+", "+/#", "#"])
def test_the_longest_and_widest_filters_are_accepted(topic: str) -> None:
    """mosquitto takes 200 separators and 65,535 bytes, + anywhere and # at the end."""
    assert AclFile.parse(f"topic read {topic}\n").anonymous == (AclRule(Access.READ, topic),)


def test_only_comments_before_the_first_rule_are_kept() -> None:
    """Those further down belong to lines that commands add and remove."""
    acl = AclFile.parse("# one\n\n# two\nuser a\n# three\ntopic b\n")
    assert acl.comments == ("# one", "# two")


def test_a_rule_allows_what_its_access_says() -> None:
    """readwrite allows both, deny nothing."""
    allowed = {access: [access.allows(wanted) for wanted in (Access.READ, Access.WRITE)] for access in Access}
    assert allowed == {
        Access.READ: [True, False],
        Access.WRITE: [False, True],
        Access.READWRITE: [True, True],
        Access.DENY: [False, False],
    }


def test_rules_are_compared_without_the_line_they_were_read_from() -> None:
    """A rule that was not read from a file has line 0."""
    assert AclRule(Access.READ, "a", 7) == AclRule(Access.READ, "a")
    assert AclRule(Access.READ, "a").line == 0


@pytest.mark.parametrize(
    ("granted", "revoked"), [(Access.READ, Access.READ), (Access.DENY, Access.DENY), (Access.WRITE, None)]
)
def test_revoking_what_was_granted_leaves_nothing(granted: Access, revoked: Access | None) -> None:
    """The user stays, with its other rules."""
    acl = AclFile().with_rules("anna", AclRule(granted, "a"), AclRule(Access.READ, "b"))
    assert acl.without_rule("anna", "a", revoked).users["anna"] == (AclRule(Access.READ, "b"),)


def test_a_file_is_read_from_its_path_and_named_in_its_errors(tmp_path: Path) -> None:
    """What `render` gave is read back; a broken one is named with its line."""
    (tmp_path / "acl").write_text(AclFile.parse(TEXT).render())
    assert AclFile.load(tmp_path / "acl") == AclFile.parse(TEXT)
    (tmp_path / "acl").write_text("topic reed a\n")
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'acl'}:1: access 'reed'")):
        AclFile.load(tmp_path / "acl")


def test_read_and_write_of_one_filter_become_one_rule() -> None:
    """Granting twice changes nothing; denials stay apart."""
    acl = AclFile().with_rules("anna", AclRule(Access.READ, "a"), AclRule(Access.READ, "a"), AclRule(Access.DENY, "a"))
    assert acl.users["anna"] == (AclRule(Access.READ, "a"), AclRule(Access.DENY, "a"))
    acl = acl.with_rules("anna", AclRule(Access.WRITE, "a")).with_rules("anna", AclRule(Access.READ, "a"))
    assert acl.users["anna"] == (AclRule(Access.READWRITE, "a"), AclRule(Access.DENY, "a"))


@pytest.mark.parametrize(
    ("revoked", "left"),
    [
        (None, ()),
        (Access.READ, (AclRule(Access.WRITE, "a"),)),
        (Access.WRITE, (AclRule(Access.READ, "a"),)),
        (Access.READWRITE, ()),
    ],
)
def test_revoking_a_part_leaves_the_rest(revoked: Access | None, left: tuple[AclRule, ...]) -> None:
    """Of readwrite, revoking read leaves write."""
    acl = AclFile().with_rules("anna", AclRule(Access.READWRITE, "a"), AclRule(Access.READ, "b"))
    assert acl.without_rule("anna", "a", revoked).users["anna"] == (*left, AclRule(Access.READ, "b"))


def test_revoking_a_permission_keeps_the_denial_of_the_same_filter() -> None:
    """It does not become a permission."""
    acl = AclFile().with_rules("anna", AclRule(Access.READ, "a"), AclRule(Access.DENY, "a"))
    assert acl.without_rule("anna", "a", Access.READ).users["anna"] == (AclRule(Access.DENY, "a"),)


@pytest.mark.parametrize("granted", [Access.READ, Access.WRITE])
def test_revoking_both_takes_the_one_there_is(granted: Access) -> None:
    """A denial on the same filter stays."""
    acl = AclFile().with_rules("anna", AclRule(granted, "a"), AclRule(Access.DENY, "a"))
    assert acl.without_rule("anna", "a", Access.READWRITE).users["anna"] == (AclRule(Access.DENY, "a"),)


@pytest.mark.parametrize(("topic", "access"), [("b", None), ("a", Access.WRITE), ("a", Access.DENY)])
def test_revoking_what_was_never_granted_is_an_error(topic: str, access: Access | None) -> None:
    """A typo does not pass for a success."""
    acl = AclFile().with_rules("anna", AclRule(Access.READ, "a"))
    with pytest.raises(UsageError, match="has no rule"):
        acl.without_rule("anna", topic, access)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("a/#/b", "last level"),
        ("a+", "whole level"),
        ("", "empty"),
        ("a\nuser bert", "line end"),
        (" a", "white space"),
        ("$share/g/a", "never matches"),
        ("homes/%u", "'pattern' lines"),
        ("/" * 201, "200 levels"),
    ],
)
def test_a_rule_that_could_not_work_is_refused(topic: str, reason: str) -> None:
    """Nothing is written that mosquitto would refuse, read otherwise, or never match."""
    with pytest.raises(UsageError, match=reason):
        AclFile().with_rules("anna", AclRule(Access.READ, topic))


def test_a_user_goes_with_all_its_rules() -> None:
    """The others stay."""
    acl = AclFile.parse(TEXT).without_user("anna")
    assert list(acl.users) == ["bert"]
    assert acl.patterns


def test_salvage_keeps_the_valid_lines_and_names_the_others() -> None:
    """After an unknown line a `topic` line may be another user's, until the next `user` line says whose it is."""
    text = "topic read a\nusr bert\ntopic read b\npattern read c/%u\nuser anna\ntopic sea d\ntopic read e\n"
    acl, dropped = AclFile.salvage(text)
    assert dropped == ["2: usr bert", "3: topic read b", "6: topic sea d"]
    assert acl.anonymous == (AclRule(Access.READ, "a"),)
    assert dict(acl.users) == {"anna": (AclRule(Access.READ, "e"),)}
    assert acl.patterns == (AclRule(Access.READ, "c/%u"),)
    assert [rule.line for rule in (*acl.anonymous, *acl.patterns, *acl.users["anna"])] == [1, 4, 7]


def test_salvage_of_a_valid_file_changes_nothing() -> None:
    """No line is dropped."""
    assert AclFile.salvage(TEXT) == (AclFile.parse(TEXT), [])


def test_a_filter_has_at_most_65_535_bytes() -> None:
    """The longest filter of MQTT is accepted."""
    longest = "ü" + "x" * 65_533
    assert AclFile.parse(f"topic read {longest}").anonymous == (AclRule(Access.READ, longest),)
    with pytest.raises(UsageError, match="longer than 65,535 bytes"):
        AclFile.parse(f"topic read {longest}x")


def test_a_file_and_its_rules_cannot_be_changed() -> None:
    """Changes return copies."""
    acl = AclFile.parse(TEXT)
    for changed, name in ((acl, "anonymous"), (acl.anonymous[0], "topic")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(changed, name, ())


def test_a_rule_that_a_readwrite_rule_covers_is_not_added() -> None:
    """Also if a second rule on the same filter follows it in the file."""
    acl = AclFile.parse("user anna\ntopic readwrite a\ntopic write a\n")
    assert acl.with_rules("anna", AclRule(Access.READ, "a")) == acl
