"""`mqttkit broker doctor`: the production checklist, tried on the running broker."""

from __future__ import annotations

import click

from mqttkit.cli.broker.life import name_option
from mqttkit.cli.findings import show_findings
from mqttkit.cli.options import set_up_logging


@click.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: findings and summary.")
def doctor(name: str, as_json: bool) -> int:
    """Check the broker against the production checklist. Ends with 1 where any check fails.

    Each check passes, warns, fails or was not checked, which never counts as a pass; what is not as it should
    be comes with the command that mends it.
    """
    from mqttkit.broker import existing_broker
    from mqttkit.broker.doctor.checklist import examine

    set_up_logging(quiet=True)
    return show_findings(examine(existing_broker(name)), as_json=as_json)
