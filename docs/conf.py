"""Settings of Sphinx, and the parts of the reference that it generates from the code. Built by `make docs`."""

from __future__ import annotations

import re
import sys
import typing
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

import mqttkit
from mqttkit.cli.options.help import option_groups
from mqttkit.config.schema import root
from mqttkit.config.yaml_writer import descriptions, scalar

project = "mqttkit"
version = release = mqttkit.__version__
extensions = ["myst_parser", "sphinx_click", "sphinx.ext.autodoc"]
exclude_patterns = ["pictures/*.md"]
html_theme = "furo"
html_title = f"mqttkit {version}"
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3
smartquotes = False
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

CONNECTION_GROUPS = ("Broker", "TLS and WebSocket", "Session", "Will", "Logging", "Help")
"""Groups of options that many commands have: the reference lists them once, on the page of the connection options."""
NO_TEXT = "\\ "
"""An escaped space: a definition that shows nothing."""


def setup(app: Sphinx) -> None:
    """Replace sphinx-click's flat list of options by groups, and add the directives."""
    _show_plain_types()
    app.connect("sphinx-click-process-description", _description)
    app.connect("sphinx-click-process-options", _options)
    app.connect("sphinx-click-process-arguments", lambda _app, _ctx, lines: lines.clear())
    app.add_directive("settings-list", SettingsList)
    app.add_directive("connection-options", ConnectionOptions)


def _show_plain_types() -> None:
    """Let autodoc show the types of settings without the rules that check them."""
    for section in root().sections():
        for target in (section.cls, section.cls.__init__):
            target.__annotations__ = typing.get_type_hints(target)


def _description(_app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Write the help as paragraphs, and its examples as a block of shell lines."""
    lines.clear()
    for paragraph in re.split(r"\n\s*\n", (ctx.command.help or "").strip()):
        if paragraph.lstrip().startswith("\b"):
            lines += [".. code-block:: shell", "", *(f"   {one.strip()}" for one in paragraph.splitlines()[1:]), ""]
        else:
            lines += [_escaped(" ".join(paragraph.split())), ""]


def _options(_app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """List the options by group; those of the connection have their own page."""
    lines.clear()
    groups = option_groups(ctx.command, ctx)
    shared = len(groups.get("Broker", ())) > 5
    for name, records in groups.items():
        if not (shared and name in CONNECTION_GROUPS) and name != "Help":
            if name != "Options":
                lines += [f".. rubric:: {name}", ""]
            lines += _definitions(records)
    if shared:
        lines += ["This command also has the :doc:`connection options <connection-options>`.", ""]


def _definitions(records: list[tuple[str, str]]) -> list[str]:
    """Return a definition list: an option, and what it means."""
    return [line for name, text in records for line in (f"``{name}``", f"   {_escaped(text) or NO_TEXT}", "")]


def _escaped(text: str) -> str:
    """Return text in which only `code` is markup."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        f"``{part}``" if index % 2 else re.sub(r"([\\*_|`])", r"\\\1", part) for index, part in enumerate(parts)
    )


class _Generated(SphinxDirective, ABC):
    """A directive whose content is reStructuredText made from the code."""

    def run(self) -> list[nodes.Node]:
        """Parse what `content_lines` returns."""
        parent = nodes.section()
        nested_parse_with_titles(self.state, StringList(self.content_lines(), self.env.docname), parent)
        return parent.children

    @abstractmethod
    def content_lines(self) -> list[str]:
        """Return the reStructuredText."""


class SettingsList(_Generated):
    """Every setting: path, default, environment variable and meaning."""

    def content_lines(self) -> list[str]:
        """Return a definition list for each section."""
        lines: list[str] = []
        for section in root().sections():
            leaves = [child for child in section.children if hasattr(child, "default")]
            described: dict[str, Any] = descriptions(section.cls)
            if leaves:
                lines += [f".. rubric:: {section.path or 'top level'}", ""]
            for leaf in leaves:
                text = _escaped(" ".join(described.get(leaf.path.rpartition(".")[2], "").split()))
                lines += [f"``{leaf.path}``", f"   {text} Default ``{scalar(leaf.default)}``; ``{leaf.variable}``.", ""]
        return lines


class ConnectionOptions(_Generated):
    """The options that every command with a connection has."""

    def content_lines(self) -> list[str]:
        """Return a definition list for each group."""
        from mqttkit.cli.top.command import top

        groups = option_groups(top, click.Context(top, info_name="mqttkit top"))
        lines = []
        for name in CONNECTION_GROUPS[:-1]:
            lines += [f".. rubric:: {name}", "", *_definitions(groups[name])]
        return lines
