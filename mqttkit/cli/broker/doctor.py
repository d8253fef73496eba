"""`mqttkit broker doctor`."""

from __future__ import annotations

import click

from mqttkit.cli.broker.options import json_option, name_option
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.output.findings import show_findings


@click.command(cls=GroupedCommand)
@name_option
@json_option
def doctor(name: str, as_json: bool) -> int:
    """Check the broker against the production checklist. Ends with 1 if a check fails.

    The result of each check is "pass", "warn", "fail" or "not checked". Each problem comes with the command
    that fixes it.

    \b
    mqttkit broker doctor
    """
    from mqttkit.broker import existing_broker
    from mqttkit.broker.doctor.checklist import examine

    set_up_logging(quiet=True)
    return show_findings(examine(existing_broker(name)), as_json=as_json)
