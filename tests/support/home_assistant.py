"""Check the discovery messages of `mqttkit decode` with the code of Home Assistant: `make home-assistant`.

Home Assistant needs a newer Python than this machine may have, so it is installed into the Debian sid of `make sid`
(root, about ten minutes, 1 GB).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from mqttkit.decode import Decoders
from mqttkit.decode.devices import DeviceTable
from mqttkit.decode.discovery import discovery
from mqttkit.scanner import Advertisement
from tests.support.sid import ROOT, prepare

CAPTURE = Path(__file__).parents[2] / "examples" / "captures" / "adverts.jsonl"
PYTHON = "/usr/home-assistant/bin/python"
PACKAGES = ("homeassistant", "paho-mqtt")
OF_THE_MACHINE = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""Files that pip needs in the other system."""
CHECK = Path(__file__).with_name("home_assistant_check.txt")
"""The program that runs in Home Assistant's Python."""


def main() -> None:
    """Install, check, print the result; exit with 1 if a message would be refused."""
    problem = prepare() or _install()
    if problem:
        sys.exit(problem)
    messages = "".join(json.dumps(message) + "\n" for message in _messages())
    command = ["chroot", str(ROOT), PYTHON, "-W", "ignore", "-c", CHECK.read_text("utf-8")]
    sys.exit(subprocess.run(command, input=messages, text=True, timeout=300).returncode)


def _install() -> str:
    """Return why Home Assistant cannot be installed, or an empty string."""
    if (ROOT / PYTHON[1:]).with_name("hass").exists():
        return ""
    python3 = ["apt-get", "install", "-y", "--no-install-recommends", "python3", "python3-venv", "ca-certificates"]
    venv = ["python3", "-m", "venv", str(Path(PYTHON).parents[1])]
    problem = _run(python3) or _run(venv)
    if problem:
        return problem
    for name in OF_THE_MACHINE:
        if Path(name).exists():
            (ROOT / name[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, ROOT / name[1:])
    return _run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES])


def _run(command: list[str]) -> str:
    """Run a command in the other system; return that it failed, or an empty string."""
    code = subprocess.run(["chroot", str(ROOT), *command], check=False).returncode
    return f"{' '.join(command)} ended with {code}" if code else ""


def _messages() -> list[dict[str, object]]:
    """Return a discovery message for each device of the recorded advertisements."""
    table = DeviceTable(Decoders(), window=0.0)
    for number, line in enumerate(CAPTURE.read_text("utf-8").splitlines()):
        table.add("hall", Advertisement.from_json(json.loads(line), timestamp=float(number)), float(number))
    return [discovery(device, f"ble/state/{device.mac_address}", ["ble/decode/status"], 300.0) for device in table]


if __name__ == "__main__":
    main()
