"""`mqttkit record info | cut | merge | export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.output.render import StandardOutput, print_json, print_table
from mqttkit.errors import UsageError

if TYPE_CHECKING:
    from mqttkit.recorder.recording import RecordingSummary

FILE = click.Path(path_type=Path)


@click.command(cls=GroupedCommand)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(files: tuple[Path, ...], as_json: bool) -> None:
    """Show time span, topics, rates, sizes and gaps of recordings.

    \b
    mqttkit record info site.jsonl.zst
    """
    from mqttkit.recorder.recording import Recording

    for path in files:
        with Recording(path) as recording:
            summary = recording.summary()
        if as_json:
            print_json({"file": str(path), **_as_object(summary)})
        else:
            print_table(("field", "value"), [(name, value) for name, value in _rows(path, summary)])


def _as_object(summary: RecordingSummary) -> dict[str, Any]:
    from dataclasses import asdict

    found = asdict(summary)
    found["seconds"] = summary.seconds
    return found


def _rows(path: Path, summary: RecordingSummary) -> list[tuple[str, str]]:
    from mqttkit.formats.clock import utc

    header = summary.header
    rate = summary.messages / summary.seconds if summary.seconds else 0.0
    ratio = summary.line_bytes / summary.file_bytes if summary.file_bytes else 0.0
    rows = [
        ("file", f"{path} (part {header.part})"),
        ("broker", f"{header.broker}, MQTT {'5' if header.mqtt_version == 5 else '3.1.1'}"),
        ("filters", " ".join(header.subscriptions)),
        ("started", utc(header.started_ns)),
        ("span", f"{summary.seconds:.3f} s"),
        ("messages", f"{summary.messages:,} ({rate:,.1f}/s)"),
        ("retained at start", f"{summary.retained:,}"),
        ("topics", f"{summary.topics:,}"),
        ("payload", f"{summary.payload_bytes:,} bytes"),
        ("file size", f"{summary.file_bytes:,} bytes ({ratio:.1f} times smaller than its lines)"),
        (
            "finished",
            "yes" if summary.finished else "no: the recorder was killed; everything up to its last flush is here",
        ),
        ("gaps", str(len(summary.gaps))),
    ]
    for gap in summary.gaps:
        at = (gap.start_ns - header.monotonic_ns) / 1e9
        lost = f", {gap.messages:,} messages" if gap.messages else ""
        rows.append(("", f"{gap.reason} at {at:.3f} s for {(gap.end_ns - gap.start_ns) / 1e9:.3f} s{lost}"))
    return rows


@click.command(cls=GroupedCommand)
@click.argument("source", metavar="FILE", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="File to create.")
@click.option("--from", "start", metavar="TIME", help="Where the copy starts: 90, 1:30 or 2026-01-11T10:30:45Z.")
@click.option("--to", "end", metavar="TIME", help="Where it ends.")
def cut(source: Path, output: Path, start: str | None, end: str | None) -> None:
    """Copy a part of a recording; its retained state is that of its first moment.

    \b
    mqttkit record cut site.jsonl.zst -o part.jsonl.zst --from 1:30 --to 2:00
    """
    from mqttkit.recorder.editing import cut_recording
    from mqttkit.recorder.recording import Recording, parse_offset

    with Recording(source) as recording:
        header = recording.header
    written = cut_recording(
        source,
        output,
        start_seconds=None if start is None else parse_offset(start, header),
        end_seconds=None if end is None else parse_offset(end, header),
    )
    click.echo(f"{written:,} messages in {output}", file=sys.stderr)


@click.command(cls=GroupedCommand)
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="File to create.")
def merge(sources: tuple[Path, ...], output: Path) -> None:
    """Join recordings made on one machine since its last start, in the order of time.

    \b
    mqttkit record merge a.jsonl.zst b.jsonl.zst -o both.jsonl.zst
    """
    from mqttkit.recorder.editing import merge_recordings

    written = merge_recordings(sources, output)
    click.echo(f"{written:,} messages in {output}", file=sys.stderr)


@click.command(cls=GroupedCommand)
@click.argument("source", metavar="FILE", type=FILE)
@click.option("--format", "kind", type=click.Choice(("ndjson", "csv", "mcap")), default="ndjson", help="[ndjson]")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="File to create.  [stdout]")
def export(source: Path, kind: str, output: Path | None) -> None:
    """Write the messages as `sub --json` prints them, as CSV with a header, or as MCAP.

    \b
    mqttkit record export site.jsonl.zst --format csv -o site.csv
    """
    from mqttkit.recorder.exchange import export_recording
    from mqttkit.recorder.recording import Recording

    with Recording(source) as recording:
        if output is None:
            stream = StandardOutput()
            export_recording(recording, kind, stream)  # type: ignore[arg-type]  # it only writes
            stream.flush()
            return
        try:
            with output.open("xb") as file:
                export_recording(recording, kind, file)
        except FileExistsError:
            raise UsageError(f"{output} exists already", hint="Choose another name, or remove it") from None


@click.command("import", cls=GroupedCommand)
@click.argument("source", metavar="FILE", type=FILE)
@click.option("--format", "kind", type=click.Choice(("ndjson", "csv", "mcap")), required=True, help="Format of FILE.")
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="File to create: NAME.jsonl.zst.")
def import_file(source: Path, kind: str, output: Path) -> None:
    """Make a recording from lines of `sub --json`, from exported CSV, or from MCAP.

    \b
    mqttkit record import site.csv --format csv -o site.jsonl.zst
    """
    from mqttkit.recorder.exchange import import_recording

    written = import_recording(source, kind, output)
    click.echo(f"{written:,} messages in {output}", file=sys.stderr)
