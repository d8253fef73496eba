"""The command line: the table of commands, and errors to exit codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from mqttkit import __version__
from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.errors import MqttkitError

log = logging.getLogger(__name__)

INTERRUPTED = 130
USAGE = 2


COMMANDS: dict[str, Entry] = {
    "demo": Entry("mqttkit.cli.demo", "demo", "Replay real advertisements through a temporary broker."),
    "broker": Entry("mqttkit.cli.broker", "broker", "Start, watch and stop an MQTT broker on this machine."),
    "pub": Entry("mqttkit.cli.pub", "pub", "Publish messages: an argument, a file, lines, JSON lines."),
    "sub": Entry("mqttkit.cli.sub", "sub", "Subscribe and print messages."),
    "top": Entry("mqttkit.cli.top.command", "top", "Show topics, rates and values live."),
    "web": Entry("mqttkit.cli.web.command", "web", "Show topics, rates, values and plots in the browser."),
    "request": Entry("mqttkit.cli.request", "request", "Publish a request and print the answers."),
    "respond": Entry("mqttkit.cli.request", "respond", "Answer requests with the output of a command."),
    "expect": Entry("mqttkit.cli.expect", "expect", "Wait for messages and check them: assertions for CI."),
    "wait-for-broker": Entry("mqttkit.cli.expect", "wait_for_broker", "Wait until a broker answers."),
    "proxy": Entry("mqttkit.cli.proxy", "proxy", "Forward connections to a broker, with faults on purpose."),
    "record": Entry("mqttkit.cli.record", "record", "Record messages with their times of reception."),
    "replay": Entry("mqttkit.cli.record.replay", "replay", "Play a recording back as it was."),
    "retained": Entry("mqttkit.cli.retained", "retained", "List, save, remove and restore retained messages."),
    "publish-scan": Entry("mqttkit.cli.scan.publish_scan", "publish_scan", "Publish Bluetooth advertisements."),
    "decode": Entry("mqttkit.cli.scan.decode", "decode", "Decode the values of Bluetooth sensors."),
    "doctor": Entry("mqttkit.cli.doctor", "doctor", "Examine any broker step by step."),
    "config": Entry("mqttkit.cli.config", "config", "Write, check and show the settings file."),
    "scan": Entry("mqttkit.cli.scan.scan", "scan", "Show the Bluetooth devices nearby; needs no broker."),
    "bridge": Entry("mqttkit.cli.bridge", "bridge", "Move metrics into a database without losing any."),
    "controller": Entry("mqttkit.cli.controller", "controller", "Run network controllers over MQTT."),
    "bench": Entry("mqttkit.cli.bench", "bench", "Measure a broker: rate, latency, loss."),
    "completion": Entry("mqttkit.cli.completion.command", "completion", "Complete words in bash, zsh or fish."),
    "node": Entry("mqttkit.cli.node", "node", "Run simulated sensors and a gateway."),
}
"""Every command, in the order of the help text."""
OTHER_NAMES = {
    "publish": "pub",
    "subscribe": "sub",
    "up": "broker up",
    "start": "broker up",
    "down": "broker down",
    "stop": "broker down",
    "status": "broker status",
    "simulate": "controller simulate",
    "init": "config init",
    "check": "config check",
}
"""What people type at first, and the command they mean."""


class Root(LazyGroup):
    """The `mqttkit` command: maps errors to exit codes."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command and end the process with its exit code."""
        extra["standalone_mode"] = False
        extra.setdefault("prog_name", "mqttkit")
        try:
            code = _run(lambda: super(Root, self).main(*args, **extra)) or _run(_flush_stdout)
        finally:
            _flush_or_forget(sys.stdout)
            _flush_or_forget(sys.stderr)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed stdout ends it with 0 (Click would end with 1)."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if has_no_reader(sys.stdout):
                return 0
            raise


def _run(work: Callable[[], Any]) -> int:
    """Call `work` and return the exit code; print an error as one line on stderr."""
    try:
        result = work()
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except click.ClickException as error:
        _say(_usage_error(error))
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except MqttkitError as error:
        _say(str(error))
        log.debug("raised here:", exc_info=True)
        return error.exit_code
    except OSError as error:
        if error.errno == errno.EPIPE and has_no_reader(sys.stdout):
            return 0
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        log.debug("raised here:", exc_info=True)
        return 1
    return result if isinstance(result, int) else 0


def _usage_error(error: click.ClickException) -> str:
    """Return Click's message in the form of mqttkit's: what is wrong, then the command to type."""
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    context = getattr(error, "ctx", None)
    if context is None or "mqttkit " in text:
        return text
    return f"{text}. See: {context.command_path} --help"


def has_no_reader(stream: TextIO) -> bool:
    """Return whether the reader of a stream has exited: other broken pipes are errors."""
    watcher = select.poll()
    try:
        watcher.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return True
    return bool(watcher.poll(0))


def _say(text: str) -> None:
    """Print an error on stderr; if that fails, the exit code still reports it."""
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            from mqttkit.formats.visible import visible_lines

            text = visible_lines(text)
        click.echo(f"mqttkit: {text}", err=True)


def _flush_stdout() -> None:
    """Write what is buffered; raise OSError."""
    if not sys.stdout.closed:
        sys.stdout.flush()


def _flush_or_forget(stream: TextIO) -> None:
    """Flush a standard stream; if that fails, keep the interpreter from complaining at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            if (number := stream.fileno()) in (1, 2):  # not a stream of a caller in this process
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


@click.group(
    cls=Root,
    entries=COMMANDS,
    other_names=OTHER_NAMES,
    context_settings={"help_option_names": ["--help"], "max_content_width": 1_000},
)
@click.version_option(__version__, message="mqttkit %(version)s")
def cli() -> None:
    """Build a working, secured, observable MQTT pipeline.

    \b
    mqttkit demo             see it work, with nothing installed
    mqttkit broker up        start a broker
    mqttkit sub -v '#'       print every message
    mqttkit pub -m hi a/b    publish one

    `mqttkit COMMAND --help` explains a command; `mqttkit help TOPIC` explains exit-codes, formats, connection and
    environment.
    """


def main() -> None:
    """Run the command line."""
    _fill_closed_streams()
    cli.main(terminal_width=_help_width())


def _help_width() -> int:
    """Return the columns for the help. Click would import shutil to find out, and with it every compression module."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 0
    return max((columns or 80) - 2, 50)


def _fill_closed_streams() -> None:
    """Replace each standard stream that the caller has closed; otherwise a socket would get its number.

    Using such a stream then fails with EBADF, as in other programs.
    """
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
