"""`mqttkit completion`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from mqttkit.cli.options.help import GroupedCommand

VARIABLE = "_MQTTKIT_COMPLETE"
"""The variable in which the scripts of Click ask for completions."""
FILES = {
    "bash": "~/.local/share/bash-completion/completions/mqttkit",
    "zsh": "~/.zfunc/_mqttkit",
    "fish": "~/.config/fish/completions/mqttkit.fish",
}
"""Where each shell finds a script."""
HINTS = {
    "bash": 'without the package bash-completion, add to ~/.bashrc:  eval "$(mqttkit completion bash)"',
    "zsh": "add to ~/.zshrc, before compinit:  fpath+=~/.zfunc",
}
"""What a shell may need to find it."""


@click.command(cls=GroupedCommand)
@click.argument("shell", type=click.Choice(list(FILES)))
@click.option("--install", is_flag=True, help="Write the script to where the shell finds it.")
def completion(*, shell: str, install: bool) -> None:
    """Print the completion script of a shell, or install it for this user.

    It completes commands, options, files, and the names of brokers, users, profiles, models and topics. Topics
    come from the broker, which has 0.3 s to send some. It omits names that a shell would interpret.

    \b
    mqttkit completion bash --install
    eval "$(mqttkit completion bash)"
    """
    text = script(shell)
    if not install:
        click.echo(text)
        return
    path = Path(FILES[shell]).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    click.echo(f"wrote {path}; it works in new shells")
    if shell in HINTS:
        click.echo(HINTS[shell])


def script(shell: str) -> str:
    """Return the script of a shell: that of Click for fish, our own where topic names are too much for Click's."""
    from mqttkit.cli import cli

    if shell != "fish":
        return files("mqttkit").joinpath(f"data/completion.{shell}").read_text().strip()
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, "mqttkit", VARIABLE).source().strip()
