"""Topic names, filters and templates, against the specification and against paho's matcher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from mqttkit.errors import TopicError
from mqttkit.topics import (
    check_level,
    check_scanner_id,
    check_template,
    check_topic_filter,
    check_topic_name,
    discouraged_character,
    fill_template,
    matches,
    split_share,
)

level = st.sampled_from(["", "a", "b", "é", "$x", "a b"])
names = st.lists(level, min_size=1, max_size=5).map("/".join).filter(bool)
filters = (
    st.tuples(st.lists(st.one_of(level, st.just("+")), max_size=5), st.sampled_from([[], ["#"]]))
    .map(lambda parts: "/".join([*parts[0], *parts[1]]))
    .filter(bool)
)


@given(filters, names)
def test_matching_agrees_with_paho(topic_filter: str, name: str) -> None:
    """`matches` agrees with paho's own matcher for any filter and name."""
    assert matches(topic_filter, name) == topic_matches_sub(topic_filter, name)


@given(names)
def test_a_name_matches_itself_and_everything(name: str) -> None:
    """A name is a filter for itself; # matches every name that does not begin with $."""
    assert matches(check_topic_filter(name), check_topic_name(name))
    assert matches("#", name) == (not name.startswith("$"))


@given(filters)
def test_a_wildcard_that_is_a_whole_level_is_accepted(topic_filter: str) -> None:
    """+ anywhere, # at the end: the filter comes back as it was."""
    assert check_topic_filter(topic_filter) == topic_filter


@pytest.mark.parametrize("name", ["", "a+", "#", "a\0b", "\ud800", "x" * 65_536, "é" * 32_768])
def test_malformed_names_are_refused(name: str) -> None:
    """Empty, with wildcard, with NUL or lone surrogate, or too long: not a topic name."""
    with pytest.raises(TopicError):
        check_topic_name(name)


def test_the_longest_names_and_identifiers_pass() -> None:
    """A topic has up to 65,535 bytes (MQTT 5, 1.5.4), a scanner identifier up to 64 characters."""
    longest = "é" * 32_767 + "x"
    assert check_topic_name(longest) == check_topic_filter(longest) == longest
    assert check_scanner_id("é" * 64) == "é" * 64
    assert check_level("x", "value") == "x"


@pytest.mark.parametrize(
    "topic_filter",
    ["", "a#", "#/a", "a/#/b", "a/b/#/c/d", "a/b+", "+a", "$share/g", "$share/g/", "$share//a", "$share/+/a", "\0"],
)
def test_malformed_filters_are_refused(topic_filter: str) -> None:
    """A wildcard is a whole level, # is the last one; a share has group and filter."""
    with pytest.raises(TopicError):
        check_topic_filter(topic_filter)


def test_shared_subscriptions_are_split() -> None:
    """$share/group/filter has its two parts and matches by its filter."""
    assert split_share("$share/g/a/+") == ("g", "a/+")
    assert split_share("a/+") == (None, "a/+")
    assert matches("$share/g/a/+", "a/b")


def test_a_wildcard_in_the_first_level_alone_leaves_out_names_with_a_dollar() -> None:
    """`$SYS/#` and `$SYS/+` reach `$SYS/uptime`; `+/uptime` and `#` do not (MQTT 5, 4.7.2)."""
    found = [
        topic_filter for topic_filter in ("$SYS/#", "$SYS/+", "+/uptime", "#") if matches(topic_filter, "$SYS/uptime")
    ]
    assert found == ["$SYS/#", "$SYS/+"]


def test_templates_are_checked_and_filled() -> None:
    """Only known placeholders; values are single levels."""
    template = check_template("ble/{scanner_id}/{mac}", ("scanner_id", "mac"))
    assert fill_template(template, {"scanner_id": "s", "mac": "AA:BB"}) == "ble/s/AA:BB"
    for bad in ("ble/{other}", "ble/{", "ble/}", "+/{mac}", ""):
        with pytest.raises(TopicError):
            check_template(bad, ("scanner_id", "mac"))
    with pytest.raises(TopicError, match="'/'"):
        fill_template(template, {"scanner_id": "s/t", "mac": "x"})


@pytest.mark.parametrize("value", ["", "a/b", "a+", "#", "\0", "\ud800"])
def test_values_that_are_not_one_level_are_refused(value: str) -> None:
    """A value that would change the topic's shape cannot be a level."""
    with pytest.raises(TopicError):
        check_level(value, "value")
    with pytest.raises(TopicError):
        check_scanner_id(value or "x" * 65)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a/b", ""),
        ("straße/\u00a0/\u2028/\ue000", ""),
        ("\u00a1\u2028\ufdcf\ufdf0\ufffd", ""),
        *((chr(plane << 16 | 0xFFFE), f"U+{plane << 16 | 0xFFFE:04X}, a non-character") for plane in range(17)),
        *((chr(plane << 16 | 0xFFFF), f"U+{plane << 16 | 0xFFFF:04X}, a non-character") for plane in range(17)),
        *((chr(plane << 16 | 0xFFFD), "") for plane in range(17)),
        ("a\x01", "U+0001, a control character"),
        ("\x7f\x01", "U+007F, a control character"),
        ("\x9f", "U+009F, a control character"),
        ("\ufdd0", "U+FDD0, a non-character"),
        ("\U0010ffff", "U+10FFFF, a non-character"),
    ],
)
def test_characters_that_make_brokers_disconnect_are_named(text: str, named: str) -> None:
    """The first one is named (MQTT 5, 1.5.4); unusual characters are fine."""
    assert discouraged_character(text) == named


@pytest.mark.parametrize("value", ["\x01", "a\x9f", "\uffff"])
def test_scanner_identifiers_that_make_brokers_disconnect_are_refused(value: str) -> None:
    """Every topic of the scanner would have the character."""
    with pytest.raises(TopicError, match="close the connection"):
        check_scanner_id(value)
