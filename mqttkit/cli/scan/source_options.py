"""Options that say where advertisements come from and which pass: `scan` and `publish-scan` share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mqttkit.cli.flags import flag_option

Command = TypeVar("Command", bound=Callable[..., Any])


def source_options(command: Command) -> Command:
    """Add the options; those given are found by `given_flags`, the command gets no argument of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _option(name: str, help_text: str, **attributes: Any) -> Callable[[Command], Command]:
    setting = name.removeprefix("--").replace("-", "_")
    return flag_option(name, f"scanner.{setting}", help=help_text, **attributes)


_OPTIONS = (
    _option(
        "--source",
        "auto (the default), bleak, bluepy, simulated, or replay:FILE (.jsonl or .btsnoop).",
        metavar="SOURCE",
    ),
    _option("--adapter", "Bluetooth adapter; the first one where it is not given.", metavar="hci0"),
    _option("--active", "Ask devices for their scan response.", is_flag=True),
    _option("--speed", "Replay: times the recorded pace, or max.", metavar="N|max"),
    _option("--loop", "Replay: begin again at the end.", is_flag=True),
    _option("--devices", "Simulated: number of devices (10).", type=int),
    _option("--rate", "Simulated: advertisements a second (20).", type=float),
    _option("--seed", "Simulated: the same seed, the same devices (0).", type=int),
    _option("--min-rssi", "Pass only what is at least this strong.", type=int, metavar="dBm"),
    _option("--mac", "Pass only this address or beginning of one (repeatable).", multiple=True),
    _option("--company", "Pass only this company's data, 4c00 for Apple (repeatable).", multiple=True),
    _option("--service", "Pass only this service UUID, 16 or 128 bits (repeatable).", multiple=True),
    _option("--name", "Pass only local names that match, such as 'Sensor*' (repeatable).", multiple=True),
    _option(
        "--interval",
        "Pass a device at most once in this many seconds, unless its data changed.",
        type=float,
        metavar="SECONDS",
    ),
)
