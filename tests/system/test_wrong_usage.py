"""What a new user types, and the error that names the mistake and the right command. All errors look the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import invoke

pytestmark = pytest.mark.system

ERRORS = {
    "pub t hello": "pub takes one topic, got t hello. Give the payload with -m: mqttkit pub -m 'hello' t",
    "pub t": "nothing to publish: give -m, -f, -s, -l, -n or --json. Example: mqttkit pub -m hello t",
    "sub": "no topic filter. To print every message: mqttkit sub '#'",
    "sub -h mqtt://h": "-h takes a host, not a URL. Give the host: -h h, or the URL with -L",
    "sub -W abc t": "invalid value for '-W': must be a number greater than 0, got 'abc'. See: mqttkit sub --help",
    "doctor --topic a/#": "topic name 'a/#' has a wildcard, + or #: a message goes to one topic",
    "node run none.yaml": "none.yaml: cannot read it: No such file or directory."
    " FILE is a scenario in YAML. For one without a file: mqttkit node sensor",
    "broker start": "no command 'start'. Did you mean: mqttkit broker up",
    "bench rountrip": "no command 'rountrip'. Did you mean: mqttkit bench roundtrip",
    "broker user ad": "no command 'ad'. Did you mean: mqttkit broker user add",
    "scna": "no command 'scna'. Did you mean: mqttkit scan",
    "pub --cert none.pem -m x t": "TLS: no file 'none.pem'. Check the path given with --cert",
    "scan --source simulatd": "--source: scanner.source: must be auto, bleak, bluepy, simulated or replay:FILE,"
    " got 'simulatd'. Did you mean simulated?",
    "scan --source reply:a.jsonl": "--source: scanner.source: must be auto, bleak, bluepy, simulated or replay:FILE,"
    " got 'reply:a.jsonl'. Did you mean replay:a.jsonl?",
    "sub --cafile none.pem t": "TLS: no file 'none.pem'. Check the path given with --cafile",
    "record t": "missing option '-o' / '--output'. See: mqttkit record filters --help",
}

URLS = ("sub mqtt://me:secret@h/t", "pub -m x mqtts://h/t", "top wss://h", "web mqtt://h", "expect mqtt://h/t")
ERRORS |= {
    line: "this is a URL, not a topic. Give the URL of a broker with -L. See: mqttkit {} --help".format(
        *line.split(" ")
    )
    for line in URLS
}


@pytest.mark.parametrize("line", ERRORS)
def test_the_error_names_the_mistake_and_the_command(line: str, tmp_path: Path) -> None:
    """One line on stderr, and exit code 2."""
    done = invoke(*line.split(" "), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"mqttkit: {ERRORS[line]}\n"


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    """Click words the rest differently from one version to the next."""
    done = invoke("sub", "--foo", "t", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"mqttkit: no such option")
    assert done.stderr.endswith(b"See: mqttkit sub --help\n")


def test_a_file_that_is_no_certificate_is_explained(tmp_path: Path) -> None:
    """The error says what the options take, beside OpenSSL's own words."""
    (tmp_path / "bad.pem").write_text("x\n")
    done = invoke("pub", "--cert", "bad.pem", "-m", "x", "t", cwd=tmp_path)
    assert done.returncode == 2
    assert b"--cert takes a PEM file with the client's certificate, --key one with its private key" in done.stderr
