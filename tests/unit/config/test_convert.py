"""Convert values to types, including types that the current settings do not use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mqttkit.config.convert import Mismatch, Surplus, convert
from mqttkit.config.load import _build
from mqttkit.config.located_values import given as wrap
from mqttkit.config.schema import describe
from mqttkit.config.yaml_writer import scalar
from mqttkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """An item of a list."""

    name: str
    count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is negative")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Settings with a list of dataclasses and a required field."""

    fleets: tuple[Fleet, ...] = ()
    needed: str

    def __post_init__(self) -> None:
        if self.needed == "both":
            raise ValueError("both is refused by the section")


@pytest.mark.parametrize(("hint", "value", "expected"), [
    (tuple[Fleet, ...], [{"name": "a"}, {"name": "b", "count": "2"}],
     (Fleet(name="a"), Fleet(name="b", count=2))),
    (dict[str, int], {"a": "1"}, {"a": 1}),
    (Mapping[str, str], {"a": "1"}, {"a": "1"}),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], "2", 2),
    (float | None, None, None),
    (float, 1, 1.0),
    (bool, "off", False),
    (str, 1.5, "1.5"),
])  # fmt: skip
def test_a_value_becomes_the_type_asked_for(hint: Any, value: object, expected: object) -> None:
    """This includes lists of dataclasses, mappings and choices."""
    assert convert(hint, wrap(value, "flag")) == expected


@pytest.mark.parametrize(("hint", "value", "message"), [
    (tuple[Fleet, ...], [{"count": 1}], "needs name"),
    (tuple[Fleet, ...], [{"name": "a", "count": -1}], "count is negative"),
    (tuple[Fleet, ...], ["a"], "must be a section"),
    (dict[str, int], "a", "must be a section"),
    (Literal["a", "b"], "c", "must be a or b"),
    (Literal["a", "b"], None, "must be a or b"),
    (dict[str, int], None, "must be a section"),
    (tuple[int, ...], None, "must be a list"),
    (bool, 1, "must be true or false"),
    (int, 1.5, "must be a whole number"),
    (int, True, "must be a whole number"),
    (float, True, "must be a number"),
    (float, "x", "must be a number"),
    (float, "inf", "must be a finite number"),
    (str, True, "must be text"),
])  # fmt: skip
def test_a_wrong_value_says_what_is_allowed(hint: Any, value: object, message: str) -> None:
    """The message completes the sentence `path: ...`."""
    with pytest.raises(Mismatch, match=message):
        convert(hint, wrap(value, "flag"))


def test_an_unknown_key_in_a_list_is_named() -> None:
    """The error has the key and the known keys, as in a section."""
    with pytest.raises(Surplus) as caught:
        convert(tuple[Fleet, ...], wrap([{"name": "a", "cuont": 1}], "flag"))
    assert (caught.value.key, caught.value.known) == ("cuont", ("name", "count", "labels"))


@pytest.mark.parametrize("hint", [set, bytes, int | str, int | str | None])
def test_a_type_that_settings_do_not_know_is_a_programming_error(hint: Any) -> None:
    """It fails in the tests, not for a user."""
    with pytest.raises(TypeError, match=r"settings (do not )?support"):
        convert(hint, wrap("x", "flag"))


@pytest.mark.parametrize(("values", "message"), [
    ({}, "needed: is required"),
    ({"needed": wrap("x", "here"), "fleets": wrap([{"cuont": 1}], "here")}, "here: unknown key 'fleets.cuont'"),
    ({"needed": wrap("both", "here")}, "both is refused by the section"),
])  # fmt: skip
def test_required_settings_and_lists_have_the_same_errors(values: dict[str, Any], message: str) -> None:
    """Required settings, unknown keys in lists, and values that the dataclass refuses."""
    with pytest.raises(ConfigError, match=message):
        _build(describe(Wanted), values)


def test_mappings_are_shown_as_yaml() -> None:
    """The mapping fits on one line."""
    assert scalar({"a b": 1, "c": ("x", None)}) == '{"a b": 1, c: [x, null]}'


def test_required_settings_are_in_the_tree() -> None:
    """A field without a default is in the tree too."""
    tree = describe(Wanted)
    assert [leaf.variable for leaf in tree.leaves()] == ["MQTTKIT_FLEETS", "MQTTKIT_NEEDED"]
