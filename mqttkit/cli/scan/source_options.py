"""Options that choose a source of advertisements and filter them: `scan` and `publish-scan` share them."""

from __future__ import annotations

from mqttkit.cli.options.numbers import SEED, Number
from mqttkit.cli.options.setting_option import Command, add_options, setting_option

_OPTIONS = (
    setting_option(
        "--source", path="scanner.source", metavar="SOURCE",
        help="auto, bleak, bluepy, simulated, or replay:FILE (.jsonl or .btsnoop).  [auto]",
    ),
    setting_option(
        "--adapter", path="scanner.adapter", multiple=True, metavar="hci0",
        help="Bluetooth adapter; can be repeated.  [the first one]",
    ),
    setting_option(
        "--wait-for-radio", path="scanner.wait_for_radio", is_flag=True, help="Wait for the radio at the start."
    ),
    setting_option("--active", path="scanner.active", is_flag=True, help="Ask devices for their scan response."),
    setting_option("--passive", path="scanner.passive", is_flag=True, help="bleak: only listen."),
    setting_option("--speed", path="scanner.speed", metavar="N|max", help="Replay: times the recorded pace.  [1]"),
    setting_option("--loop", path="scanner.loop", is_flag=True, help="Replay: start again at the end."),
    setting_option("--strict", path="scanner.strict", is_flag=True, help="Replay: end at an invalid record."),
    setting_option(
        "--devices", path="scanner.devices", type=Number("N", whole=True), help="Simulated: number of devices.  [10]"
    ),
    setting_option(
        "--rate", path="scanner.rate", type=Number("N"), help="Simulated: advertisements per second.  [20]"
    ),
    setting_option(
        "--seed", path="scanner.seed", type=SEED, help="Simulated: the same seed gives the same devices.  [0]"
    ),
    setting_option("--identities", path="scanner.identities_file", metavar="FILE", help="YAML file of known devices."),
    setting_option(
        "--min-rssi", path="scanner.min_rssi", type=Number("DBM", whole=True),
        help="Drop advertisements weaker than this.",
    ),
    setting_option(
        "--mac", path="scanner.mac", multiple=True, metavar="ADDRESS",
        help="Pass only addresses that start with ADDRESS; can be repeated.",
    ),
    setting_option(
        "--company", path="scanner.company", multiple=True, metavar="ID",
        help="Pass only this company's data, such as 4c00 for Apple; can be repeated.",
    ),
    setting_option(
        "--service", path="scanner.service", multiple=True, metavar="UUID",
        help="Pass only this service, 16 or 128 bits; can be repeated.",
    ),
    setting_option(
        "--name", path="scanner.name", multiple=True, metavar="PATTERN",
        help="Pass only matching local names, such as 'Sensor*'; can be repeated.",
    ),
    setting_option(
        "--interval", path="scanner.interval", type=Number("SECONDS"),
        help="Pass unchanged data of a device at most once in this time.  [0: pass everything]",
    ),
)  # fmt: skip


def source_options(command: Command) -> Command:
    """Add the options; all are settings."""
    return add_options(command, _OPTIONS)
