"""The man pages: one for each command, from the same source as the help."""

from __future__ import annotations

import shutil
import subprocess

import click
import pytest

from mqttkit.cli import cli
from mqttkit.cli.options.man_pages import page
from mqttkit.cli.pub import pub


def page_of_pub() -> str:
    """Return the page of `mqttkit pub`."""
    return page(click.Context(pub, info_name="pub", parent=click.Context(cli, info_name="mqttkit")))


def test_a_page_has_name_synopsis_options_and_examples() -> None:
    """The sections are those of other man pages; rare options are there too."""
    text = page_of_pub()
    assert text.startswith('.TH "MQTTKIT\\-PUB" "1" ')
    for section in (
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "BROKER",
        "TLS AND WEBSOCKET",
        "EXAMPLES",
        "SEE ALSO",
    ):
        assert f"\n.SH {section}\n" in text
    assert "\n.TP\n\\fB\\-\\-cafile FILE\\fR\n" in text
    assert "\nmqttkit pub \\-m 21.5 sensor/1\n" in text


def test_a_group_lists_the_pages_of_its_commands() -> None:
    """`man mqttkit` leads to `man mqttkit-pub`."""
    assert "\n\\fBmqttkit\\-pub\\fR(1)\n" in page(click.Context(cli, info_name="mqttkit"))


def test_roff_accepts_a_page() -> None:
    """groff prints no warning, and the text reads as in the help."""
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-Kutf8", "-man", "-ww", "-Tutf8", "-P-c"],
        input=page_of_pub(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "Publish each line of stdin as soon as it is read." in done.stdout
