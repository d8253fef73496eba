"""Run mosquitto's own tests of its clients against `mqttkit pub`, `sub` and `request`; count the calls that pass.

    python -m tests.interoperability.mosquitto_clients --directory DIR

The tests come from the source package of Debian sid at run time. A file of them makes several calls of `do_test`, and
ends at the first one that fails; here each call runs alone. Calls with MQTT 3.1, and files that compare the texts of
mosquitto's errors, do not count.
"""

from __future__ import annotations

import argparse
import ast
import collections
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interoperability.debian import NotInstalled, Sid, fetch_source
from tests.support.brokers import free_port

CALL_SECONDS = 60
START, PATIENT_START = "time.sleep(0.1)", "time.sleep(3.0)"
"""How long the tests wait for a client to subscribe: a C program starts faster than Python does."""
MQTT_31 = 3
WRAPPERS = {
    "client/mosquitto_pub": "exec {python} -m mqttkit pub $file",
    "client/mosquitto_sub": "exec {python} -m mqttkit sub $file",
    "client/mosquitto_rr": "exec {python} -m mqttkit request $file",
    "src/mosquitto": "exec {mosquitto}",
}
OPTIONS_FILE = """file="${XDG_CONFIG_HOME:-$HOME/.config}/$(basename "$0")"
if [ -f "$file" ]; then file="-o $file"; else file=""; fi
"""
"""mosquitto's clients read this file unasked; mqttkit reads one that -o names."""


@dataclass(frozen=True)
class Call:
    """One call of `do_test` in a file."""

    file: Path
    text: str
    """The call as it is written."""
    program: str
    """The file without its other calls."""


def calls_of(file: Path) -> Iterator[Call]:
    """Yield each call of a file, with the statements that come before it."""
    tree = ast.parse(file.read_text())
    before: list[ast.stmt] = []
    for statement in _flat(tree.body):
        if _is_test(statement):
            program = ast.unparse(ast.Module([*before, statement], [])).replace(START, PATIENT_START)
            yield Call(file, ast.unparse(statement), program)
        else:
            before.append(statement)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those of `if` too: each of them compares a platform or the module's name."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _flat(statement.body)
        else:
            yield statement


def _is_test(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "do_test"


def needs_mqtt_31(call: Call) -> bool:
    """Return whether the call uses MQTT 3.1, which mqttkit does not speak."""
    tree = ast.parse(call.text, mode="eval").body
    assert isinstance(tree, ast.Call)
    return any(
        word.arg == "proto_ver" and isinstance(word.value, ast.Constant) and word.value.value == MQTT_31
        for word in tree.keywords
    )


def run_call(call: Call, build: Path) -> tuple[str, str]:
    """Run a call; return `pass`, `fail` or `skip`, and the end of its output."""
    alone = call.file.with_name(f"alone-{call.file.name}")
    alone.write_text(call.program)
    ports = [str(free_port()) for _ in range(_ports(call))]
    environment = {**os.environ, "BUILD_ROOT": str(build), "PYTHONPATH": str(Path.cwd())}
    try:
        done = subprocess.run(
            [sys.executable, alone.name, *ports],
            cwd=call.file.parent, env=environment, capture_output=True, text=True, timeout=CALL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "fail", f"did not end within {CALL_SECONDS} s"
    finally:
        alone.unlink()
    if "skipping test" in done.stdout:
        return "skip", done.stdout.strip()
    if "socket.gaierror" in done.stderr:
        return "skip", "this machine does not know the host name ip6-localhost"
    return "pass" if done.returncode == 0 else "fail", (done.stdout + done.stderr).strip()


def _ports(call: Call) -> int:
    return 2 if "get_port(2)" in call.program else 1


def make_build(directory: Path) -> Path:
    """Make what the tests take for mosquitto's build: mqttkit under the names of its clients, and a real broker."""
    sid = Sid()
    sid.install("mosquitto")
    words = {"python": sys.executable, "mosquitto": " ".join(sid.outside("/usr/sbin/mosquitto"))}
    for name, command in WRAPPERS.items():
        wrapper = directory / name
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\n{OPTIONS_FILE}{command.format(**words)} "$@"\n')
        wrapper.chmod(0o755)
    return directory


def main() -> int:
    """Run every call that counts, print what fails, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(".venv/interoperability"))
    parser.add_argument("--only", default="", help="run files with this in their name")
    parser.add_argument("--verbose", action="store_true", help="show the output of calls that fail")
    options = parser.parse_args()
    directory = options.directory.resolve()
    try:
        tests = fetch_source("mosquitto", "sid", directory / "mosquitto-source") / "test" / "client"
        build = make_build(directory / "mosquitto-build")
    except NotInstalled as error:
        print(f"skipped: {error}")
        return 0
    totals, began = collections.Counter[str](), time.monotonic()
    for file in sorted(tests.glob("0*.py")):
        if "argv-errors" in file.name or options.only not in file.name:
            continue
        for call in calls_of(file):
            result, output = ("MQTT 3.1", "") if needs_mqtt_31(call) else run_call(call, build)
            totals[result] += 1
            if result in ("fail", "skip"):
                print(f"{result} {file.name}: {call.text}", flush=True)
                if options.verbose:
                    print(output)
    counted = totals["pass"] + totals["fail"]
    share = 100 * totals["pass"] / max(1, counted)
    print(
        f"{totals['pass']} of {counted} calls pass ({share:.0f} %); {totals['skip']} skipped,"
        f" {totals['MQTT 3.1']} need MQTT 3.1; {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
