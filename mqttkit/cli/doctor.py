"""`mqttkit doctor`."""

from __future__ import annotations

import click

from mqttkit.addresses import SCHEMES
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.output.findings import show_findings
from mqttkit.topics import check_topic_name

REACHING = ("dns", "tcp", "tls", "websocket")
"""Checks of the steps before CONNECT."""


class UrlFirst(GroupedCommand):
    """A command with an argument URL, the same as -L; a first word that is no URL is a host, the same as -h."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put -L before a URL, and -h before a host."""
        given: list[str] = []
        for word in args:
            is_url = word.partition("://")[0] in SCHEMES and "://" in word
            if is_url and (not given or given[-1] not in ("-L", "--url")):
                given += ["-L", word]
            elif not given and not word.startswith("-"):
                given += ["-h", word]
            else:
                given.append(word)
        return super().parse_args(ctx, given)


@click.command(cls=UrlFirst, default_qos="", options_metavar="[URL|HOST] [OPTIONS]")
@click.option("--topic", metavar="TOPIC", help="Prefix of the topics used.  [mqttkit/doctor/ and a random level]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: findings and summary.")
@terse_connection_options
def doctor(connection: ConnectionOptions, topic: str | None, as_json: bool) -> int:
    """Examine a broker as a client: name, TCP, TLS, CONNACK, limits, SUBACK, ACL, round trip.

    URL is mqtt(s)://user:password@host:port, or ws(s)://…; without it, the broker of the settings or of
    `broker up`. Each step that fails comes with its likely cause. Ends with 1 if a step fails, with 3 if the
    broker cannot be reached.

    \b
    mqttkit doctor mqtts://broker.example.com
    """
    from mqttkit.doctor.examination import examine

    prefix = topic or connection.url_topic
    if prefix is not None:
        check_topic_name(prefix)
    return show_findings(examine(connection.settings.mqtt, topic=prefix), as_json=as_json, reaching=REACHING)
