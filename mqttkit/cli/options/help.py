"""Help of a command: its options in groups, the rare groups behind --help-all."""

from __future__ import annotations

from typing import Any

import click

GROUPS: dict[str, tuple[str, ...]] = {
    "Filters": (
        *("--topic", "--filter-out", "--unsubscribe", "-R", "--retained-only", "--remove-retained"),
        *("--retain-as-published", "--retain-handling", "--random-filter"),
    ),
    "Output": ("--verbose", "--format", "--json", "--pretty", "--field", "--raw", "-N"),
    "Stop conditions": ("-C", "-W", "-E"),
    "Databases": (
        *("--sink-password-file", "--stream", "--list", "--table", "--keep", "--dead-letters", "--job", "--job-format"),
        *("--redis-durability", "--token-file", "--http-headers-file", "--http-username", "--http-password-file"),
        *("--http-ca-file", "--http-cert-file", "--http-key-file", "--http-gzip"),
    ),
    "MQTT 5 properties": (
        *("--content-type", "--response-topic", "--correlation-data", "--expiry", "--user-property", "--utf8"),
        "--topic-alias",
    ),
    "Broker": (
        *("--host", "--port", "--unix", "--url", "--username", "--password", "--password-file", "--qos"),
        *("--broker", "--config"),
    ),
    "TLS and WebSocket": (
        *("--tls", "--cafile", "--cert", "--key", "--tls-alpn", "--insecure", "--psk", "--psk-identity", "--ws"),
    ),
    "Session": (
        *("--id", "--keepalive", "--version", "--disable-clean-session", "--session-expiry", "--receive-maximum"),
        *("--no-retry", "--proxy", "--bind", "--max-packet-size"),
    ),
    "Will": ("--will-topic", "--will-payload", "--will-qos", "--will-retain", "--will-delay"),
    "Logging": ("--quiet", "--debug"),
    "Help": ("--help", "--help-all"),
}
"""Groups of options, in the order of the help; each option by one of its names. Others are in the group `Options`."""
RARE = ("TLS and WebSocket", "Session", "Will")
OWN = "Options"
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_SHOW_ALL = "mqttkit.help_all"


class GroupedCommand(click.Command):
    """A command whose help lists the options in groups: `--help` the usual ones, `--help-all` all of them.

    `-h` as the last argument shows the help: no host follows it.
    """

    def __init__(
        self, *args: Any, default_qos: str = "0", session_seconds: int | None = None, **attributes: Any
    ) -> None:
        """`default_qos` is what the help of -q shows; empty, it hides -q: the command uses a fixed QoS.

        `session_seconds` is for a command that always keeps a session, under an identifier that it stores: what the
        help of -x shows.
        """
        super().__init__(*args, **attributes)
        for param in self.params:
            if not isinstance(param, click.Option):
                continue
            if "--qos" in param.opts:
                param.hidden = not default_qos
                param.help = f"Quality of service: 0, 1 or 2.  [{default_qos}]"
            elif session_seconds is not None:
                _describe_session(param, session_seconds)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help if the arguments end with -h."""
        if args[-1:] == ["-h"] and "--" not in args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Add --help-all to a command with rare options."""
        params = super().get_params(ctx)
        if any(_group_of(param) in RARE for param in params):
            params = [*params, _HELP_ALL]
        return params

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by group."""
        hidden = () if ctx.meta.get(_SHOW_ALL) else RARE
        for name, records in option_groups(self, ctx).items():
            if name not in hidden:
                with formatter.section(name):
                    formatter.write_dl(records)

    def further_options(self) -> dict[str, list[tuple[str, str]]]:
        """Return the options that Click does not know: name and description, by group."""
        return {}


class CommandGroup(click.Group):
    """A group of such commands."""

    command_class = GroupedCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help for -h too."""
        return super().parse_args(ctx, ["--help"] if args == ["-h"] else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown name, suggest the nearest one."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(no_command(ctx, args[0], list(self.commands)))
        return super().resolve_command(ctx, args)


def no_command(ctx: click.Context, name: str, known: list[str], meant: str = "") -> str:
    """Return the error for an unknown command: the command that is meant, or the nearest one, or where to look."""
    from difflib import get_close_matches

    meant = meant or next(iter(get_close_matches(name, known, n=1)), "")
    hint = f"Did you mean: {ctx.command_path} {meant}" if meant else f"See: {ctx.command_path} --help"
    return f"no command {name!r}. {hint}"


def option_groups(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return the name and description of each option, by group in the order of the help."""
    groups: dict[str, list[tuple[str, str]]] = {OWN: [], **{name: [] for name in GROUPS}}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            groups[_group_of(param)].append(record)
    if isinstance(command, GroupedCommand):
        groups.update(command.further_options())
    return {name: records for name, records in groups.items() if records}


def _group_of(param: click.Parameter) -> str:
    if "--topic" in param.opts and param.metavar != "FILTER":
        return OWN
    return next((_GROUP_OF[name] for name in param.opts if name in _GROUP_OF), OWN)


def _show_all(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_SHOW_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_all,
    help="Show the options for TLS, WebSocket, session and will too.",
)


def _describe_session(option: click.Option, seconds: int) -> None:
    """Give an option of the session the default of a command that always keeps its session."""
    if "--disable-clean-session" in option.opts:
        option.hidden = True
    elif "--id" in option.opts:
        option.help = "Client identifier.  [created once and stored]"
    elif "--session-expiry" in option.opts:
        option.help = f"How long the broker keeps the session after the connection ends (MQTT 5).  [{seconds}]"
