"""The error tree matches its drawing."""

from __future__ import annotations

import re

from mqttkit import errors


def all_errors(root: type[errors.MqttkitError] = errors.MqttkitError) -> list[type[errors.MqttkitError]]:
    """Return the class and every class below it that errors.py defines."""
    below = [each for child in root.__subclasses__() for each in all_errors(child)]
    return [root, *below] if root.__module__ == errors.__name__ else below


def test_the_drawn_tree_is_the_tree() -> None:
    """The drawing at the top of errors.py has every class with its exit code."""
    drawn = re.findall(r"(\w+) +(\d+)   ", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {each.__name__: each.exit_code for each in all_errors()}


def test_an_error_ends_with_its_hint() -> None:
    """The message starts with what failed and ends with the next command."""
    error = errors.BrokerUnreachable("localhost:1883", "tcp", "connection refused", hint="Start one: mqttkit broker up")
    assert str(error) == "cannot reach broker localhost:1883: connection refused. Start one: mqttkit broker up"
    assert (error.exit_code, error.step) == (3, "tcp")
    assert str(errors.ConfigError("must be 1", where="f.yaml:3")) == "f.yaml:3: must be 1"
