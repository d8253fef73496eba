"""`import mqttkit`: lazy, and complete."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mqttkit

ROOT = Path(__file__).parents[2]


def modules_after(code: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after the code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    return set(done.stdout.split())


def test_importing_mqttkit_imports_nothing_else() -> None:
    """No paho, ssl, yaml, asyncio or docker, and no other module of mqttkit."""
    new = modules_after("import mqttkit") - modules_after("import __future__")
    assert new == {"mqttkit"}


@pytest.mark.parametrize(("name", "absent"), [
    ("BrokerSettings", {"paho", "ssl", "yaml", "asyncio", "docker"}),
    ("Message", {"paho", "ssl", "yaml", "asyncio", "docker"}),
    ("connect", {"ssl", "yaml", "asyncio", "docker"}),
    ("temporary_broker", {"paho", "ssl", "yaml", "asyncio", "docker"}),
])  # fmt: skip
def test_a_name_loads_only_what_it_needs(name: str, absent: set[str]) -> None:
    """Settings need no paho; a connection without TLS needs no ssl."""
    assert not modules_after(f"import mqttkit; mqttkit.{name}") & absent


def test_each_public_name_can_be_used_and_is_documented() -> None:
    """Each name in __all__ exists, has a docstring, and is listed by dir()."""
    for name in mqttkit.__all__:
        assert inspect.getdoc(getattr(mqttkit, name)), name
    assert set(mqttkit.__all__) <= set(dir(mqttkit))
    assert mqttkit.aio is importlib.import_module("mqttkit.aio")


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING, the table of modules and __all__ agree."""
    tree = ast.parse(Path(str(mqttkit.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (str(node.module).removeprefix("mqttkit."), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    table = {(module, name) for module, names in mqttkit._MODULES.items() for name in names}
    assert seen - {("mqttkit", "aio")} == table
    assert {name for _module, name in seen} == set(mqttkit.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'mqttkit' has no attribute 'conect'"):
        _ = mqttkit.conect
