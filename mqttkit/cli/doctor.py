"""`mqttkit doctor [URL]`: any broker, examined as a client."""

from __future__ import annotations

from typing import Any

import click

from mqttkit.addresses import SCHEMES
from mqttkit.cli.findings import show_findings
from mqttkit.cli.options import Connection, terse_connection_options


class UrlFirst(click.Command):
    """A command whose argument `URL` is what -L takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put -L before a URL that stands alone."""
        given: list[str] = []
        for word in args:
            alone = not given or given[-1] not in ("-L", "--url")
            given += ["-L", word] if alone and word.partition("://")[0] in SCHEMES and "://" in word else [word]
        return super().parse_args(ctx, given)


@click.command(cls=UrlFirst, options_metavar="[URL] [OPTIONS]")
@click.option("--topic", help="Prefix of the topics used.  [mqttkit/doctor/…, random]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: findings and summary.")
@terse_connection_options
def doctor(connection: Connection, topic: str | None, as_json: bool, **_rest: Any) -> int:
    """Examine a broker as a client: name, TCP, TLS, CONNACK, limits, SUBACK, ACL, round trip.

    URL is mqtt(s)://user:password@host:port, or ws(s)://…; without it, the broker of the settings or of
    `broker up`. The first step that fails is named with its likely cause. Ends with 1 where any fails.
    """
    from mqttkit.doctor.examination import examine

    settings = connection.settings.mqtt
    return show_findings(examine(settings, topic=topic or connection.url_topic), as_json=as_json)
