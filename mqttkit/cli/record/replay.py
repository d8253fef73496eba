"""`mqttkit replay FILE...`: play recordings back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.output.render import print_json
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import Interrupted, PublishFailed, UsageError
from mqttkit.topics import check_topic_filter

if TYPE_CHECKING:
    from mqttkit.recorder.player import PlayerOptions, PlayReport
    from mqttkit.recorder.verification import Differences
    from mqttkit.stop import Stop


def _speed(_context: click.Context, _parameter: click.Parameter, text: str) -> float | None:
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise click.BadParameter(f"{text!r} is not a number above 0 or max")
    return value


@click.command(cls=GroupedCommand, default_qos="as recorded")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--speed", default="1", callback=_speed, metavar="FACTOR", help="Times the recorded pace, or max.  [1]")
@click.option("--from", "start", metavar="TIME", help="Start there: 90, 1:30 or 2026-01-11T10:30:45Z.")
@click.option("--to", "end", metavar="TIME", help="Stop there.")
@click.option(
    "--loop", "loops", type=Number("N", low=0, whole=True), default=1, help="Times to play; 0: until stopped.  [1]"
)
@click.option("--filter", "include", metavar="FILTER", multiple=True, help="Play only topics that match FILTER.")
@click.option("--filter-out", "exclude", metavar="FILTER", multiple=True, help="Do not play topics that match FILTER.")
@click.option("--map", "maps", metavar="PATTERN=NEW", multiple=True, help="Rename topics: 'site/(.*)=test/$1'.")
@click.option("--no-retained", is_flag=True, help="Do not restore the retained state first.")
@click.option("--pause-on-disconnect", is_flag=True, help="Stop the clock while there is no connection.")
@click.option("--at", metavar="TIME", help="Wait until this time of day: 2026-01-11T10:30:00Z.")
@click.option("--verify", is_flag=True, help="Subscribe, and prove that what arrives equals the recording.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@terse_connection_options
def replay(connection: ConnectionOptions, files: tuple[Path, ...], **given: Any) -> None:
    """Play recordings back: each message leaves at its time, with its payload, QoS, retain flag and properties.

    The retained state of the starting point is restored first. Exit code 6: the broker denied or lost a message, or
    --verify found a difference.

    \b
    mqttkit replay monday.jsonl.zst
    mqttkit replay monday.jsonl.zst --speed 10
    """
    from mqttkit.client import MqttClient
    from mqttkit.recorder.player import Player
    from mqttkit.recorder.verification import Verification
    from mqttkit.stop import Stop

    if connection.url_topic is not None:
        raise UsageError("-L names the broker only", hint="The topics are those of the recording; --map renames them")
    options = _options(files[0], connection, given)
    stop = Stop()
    with (
        on_interrupt(stop.set),
        MqttClient(connection.settings.mqtt, will=connection.will, retry=connection.retry) as client,
    ):
        if given["at"] is not None:
            _wait_until(given["at"], stop)
        client.connect()
        player = Player(client, options)
        if given["verify"]:
            with Verification(connection.settings.mqtt, player.topics(files)) as verification:
                player.on_sent = verification.expect
                report = player.play(files, stop)
                differences = verification.finish()
        else:
            report, differences = player.play(files, stop), None
    _show(report, differences, as_json=given["as_json"])
    if stop.is_set and options.loops:
        raise Interrupted(f"interrupted after {report.sent} messages")
    if differences:
        raise PublishFailed(f"what arrived differs from the recording: {differences.text()}")


def _options(first: Path, connection: ConnectionOptions, given: dict[str, Any]) -> PlayerOptions:
    """Return what to play; raise UsageError or RecordingError."""
    from mqttkit.recorder.player import PlayerOptions, TopicMap
    from mqttkit.recorder.recording import Recording, parse_offset

    with Recording(first) as recording:
        header = recording.header
    return PlayerOptions(
        speed=given["speed"],
        start_seconds=0.0 if given["start"] is None else parse_offset(given["start"], header),
        end_seconds=None if given["end"] is None else parse_offset(given["end"], header),
        loops=given["loops"],
        include=tuple(check_topic_filter(each) for each in given["include"]),
        exclude=tuple(check_topic_filter(each) for each in given["exclude"]),
        maps=tuple(TopicMap.parse(each) for each in given["maps"]),
        restore_retained=not given["no_retained"],
        qos=connection.qos,
        pause_on_disconnect=given["pause_on_disconnect"],
    )


def _wait_until(text: str, stop: Stop) -> None:
    """Wait until a time of day given in RFC 3339."""
    from datetime import datetime, timezone

    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except ValueError:
        raise UsageError(f"--at {text!r} is not a time", hint="For example: --at 2026-01-11T10:30:00Z") from None
    left = (moment - datetime.now(timezone.utc)).total_seconds()
    if left < 0:
        raise UsageError(f"--at {text!r} is in the past")
    stop.wait(left)


def _show(report: PlayReport, differences: Differences | None, *, as_json: bool) -> None:
    late = {
        name: round(seconds, 6)
        for name, seconds in (
            ("p50", report.lateness.quantile(0.5)),
            ("p99", report.lateness.quantile(0.99)),
            ("max", report.lateness.maximum),
        )
    }
    if as_json:
        found = {name: getattr(report, name) for name in ("sent", "restored", "delivered", "failed", "seconds")}
        print_json({**found, "late_seconds": late, "differences": None if differences is None else asdict(differences)})
        return
    shown = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in late.items())
    click.echo(
        f"{report.sent:,} messages and {report.restored:,} retained ones in {report.seconds:.1f} s; late: {shown}; "
        f"{report.failed:,} failed",
        err=True,
    )
    if differences is not None:
        click.echo(f"verified: {differences.text()}", err=True)
