"""docs/how-to/broker.md and docs/reference/doctor.md: their commands run, and their tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from mqttkit.broker import LACKS, Feature
from mqttkit.broker.doctor.checklist import CHECKS
from mqttkit.broker.mosquitto.configuration import LIMITS, TUNINGS
from mqttkit.doctor.examination import STEPS
from tests.support.brokers import free_port, need
from tests.support.pages import find_page
from tests.system.test_docs import console_commands

pytestmark = pytest.mark.system


def test_the_page_s_commands_run_in_their_order():
    """Each ends with 0, on a native mosquitto and a free port."""
    need("mosquitto")
    place = ["--backend", "process", "--port", str(free_port())]
    for words in console_commands(find_page("broker.md")):
        extra = place if words[:2] == ["broker", "up"] else []
        done = subprocess.run([sys.executable, "-m", "mqttkit", *words, *extra], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def test_the_refusal_shown_is_the_one_that_is_said():
    shown = re.search(r"^\$ mqttkit (broker up --backend embedded.*)\n(mqttkit: .*)$", text("broker.md"), re.M)
    assert shown is not None
    done = subprocess.run(
        [sys.executable, "-m", "mqttkit", *shown[1].split(), "--port", str(free_port())], capture_output=True, text=True
    )
    assert done.stderr.strip() == shown[2]
    assert done.returncode == 2


@pytest.mark.parametrize("name", [*(check.name for check in CHECKS), *(step.name for step in STEPS)])
def test_each_check_and_step_is_described(name: str):
    assert f"| `{name}` |" in text("doctor.md")


@pytest.mark.parametrize("setting", [*LIMITS, "persistence"])
def test_the_table_of_tuning_says_what_is_set(setting: str):
    row = next(line for line in text("broker.md").splitlines() if line.startswith(f"| `--{setting.replace('_', '-')}`"))
    shown = [cell.strip() for cell in row.split("|")[2:5]]
    assert [number(cell) for cell in shown] == [getattr(TUNINGS[name], setting) for name in TUNINGS]


def test_the_table_of_backends_knows_what_each_lacks():
    rows = [line for line in text("broker.md").splitlines() if line.startswith("| TLS, WebSockets")]
    assert rows == ["| TLS, WebSockets | yes | yes | no |"]
    assert {Feature.TLS, Feature.WEBSOCKETS} <= set(LACKS["embedded"])
    assert not {Feature.TLS, Feature.WEBSOCKETS} & set(LACKS["process"])


def text(name: str) -> str:
    return find_page(name).read_text()


def number(cell: str) -> int | bool:
    if cell in ("on", "off"):
        return cell == "on"
    digits, _, unit = cell.partition(" ")
    return int(digits.replace(",", "")) * {"": 1, "MiB": 1024 * 1024}[unit]
