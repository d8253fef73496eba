"""What an operator does with running controllers: policies, events, requests, and the rotation of a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from mqttkit.cli import cli
from mqttkit.controller import GlobalController, LocalController, RegionalController
from mqttkit.controller.controller import Controller
from mqttkit.controller.operation.operator import RetainedState
from mqttkit.controller.security.keys import KeyFile, KeyRing, KeyStatus, generate
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, eventually, settings_of

Kind = TypeVar("Kind", bound=Controller)


class Site:
    """Controllers of this process and commands, with one key ring on one broker."""

    def __init__(self, directory: Path, port: int, base: str, stack: ExitStack) -> None:
        self.directory, self.port, self.base, self.stack = directory, port, base, stack
        self.keys = KeyFile(directory / "keys.json")
        self.keys.save(KeyRing().add(generate("k1")).activate("k1"))

    def start(self, kind: type[Kind], name: str, **changes: Any) -> Kind:
        """Connect a controller. Commands take it for silent after three heartbeats, which a slow machine may miss."""
        changes = {"base": self.base, "heartbeat_interval": 2.0, **changes}
        settings = settings_of(self.directory, name, **changes)
        controller = kind(settings, broker_at(self.port))
        self.stack.callback(controller.disconnect_mqtt, flush=0)
        assert controller.connect_mqtt(60)
        return controller

    def run(self, *arguments: str) -> Result:
        """Run `mqttkit controller ...` in this process."""
        options = ["-h", "127.0.0.1", "-p", str(self.port), "--base", self.base, "--key-file", str(self.keys.path)]
        return CliRunner().invoke(cli, ["controller", *arguments, *options])

    def rules(self, text: str) -> str:
        """Return the path of a file of rules."""
        path = self.directory / "rules.json"
        path.write_text(text)
        return str(path)


@pytest.fixture
def site(tmp_path: Path, broker: Mosquitto, topic: str) -> Iterator[Site]:
    """Under the test's own topic."""
    with ExitStack() as stack:
        yield Site(tmp_path, broker.port, topic, stack)


def test_the_policy_of_a_running_controller_is_changed(site: Site) -> None:
    """`policy set` finds the controller by its heartbeat; `policy show` names who applied it."""
    high = site.start(GlobalController, "gc-1")
    local = site.start(LocalController, "lc-1")
    local.subscribe_to_policy_updates()
    eventually(lambda: "gc-1" in {one.controller_id for one in state(site).online})
    done = site.run("policy", "set", site.rules('{"scan_interval": 30}'))
    assert json.loads(done.stdout) == {"scope": "global", "version": 1, "controller": "gc-1"}, done.output
    eventually(lambda: (policy := local.policy()) is not None and policy.rules == {"scan_interval": 30})
    assert high.policy() == local.policy()
    eventually(lambda: shown(site) == [("global", 1, "gc-1", ["gc-1", "lc-1"])])
    table = site.run("policy", "show").stdout.splitlines()
    assert table[0].split() == ["policy", "version", "from", "key", "rules", "applied_by"]
    assert table[1].split()[:4] == ["global", "1", "gc-1", "k1"]


def state(site: Site) -> RetainedState:
    """Read what the broker has retained."""
    return RetainedState(settings_of(site.directory, "x", base=site.base), broker_at(site.port))


def shown(site: Site) -> list[tuple[str, int, str, list[str]]]:
    """Return what `policy show` prints."""
    rows = [json.loads(line) for line in site.run("policy", "show", "--json").stdout.splitlines()]
    return [(row["policy"], row["version"], row["from"], row["applied_by"]) for row in rows]


def test_a_policy_without_a_controller_that_publishes_it_is_an_error(site: Site) -> None:
    """None, or several; the message says what to do."""
    rules = site.rules("{}")
    none = site.run("policy", "set", rules, "--scope", "zone-A", "--timeout", "0.5")
    assert (none.exit_code, "Start one: mqttkit controller regional" in none.stderr) == (2, True), none.output
    for name in ("rc-1", "rc-2"):
        site.start(RegionalController, name)
    eventually(lambda: len(state(site).online) == 2)
    several = site.run("policy", "set", rules, "--scope", "zone-A")
    assert (several.exit_code, "rc-1, rc-2 publish the policy of zone-A. Name one: --to ID" in several.stderr) == (
        2,
        True,
    )
    assert site.run("policy", "set", rules, "--scope", "zone-A", "--to", "rc-2").exit_code == 0
    assert site.run("policy", "set", str(site.directory / "no.json")).exit_code == 2


def test_events_and_requests_are_sent_from_the_command_line(site: Site) -> None:
    """The event arrives with its data; the answer is printed, a refusal ends with 1."""
    high = site.start(GlobalController, "gc-1")
    heard: list[Any] = []
    high.subscribe_to_events(lambda event: heard.append((event.sender_id, event.payload)))
    done = site.run("event", "publish", "link_down", '{"port": 7}')
    assert done.exit_code == 0, done.output
    eventually(lambda: heard == [("operator", {"event": "link_down", "data": {"port": 7}})])
    asked = site.run("request", "gc-1", "ping", "--timeout", "60")
    assert json.loads(asked.stdout) == {"controller": "gc-1", "role": "global"}, asked.output
    refused = site.run("request", "gc-1", "acme.x", "--timeout", "60")
    assert (refused.exit_code, "no handler for requests of type 'acme.x'" in refused.stderr) == (1, True)
    wrong = site.run("request", "gc-1", "ping", "[1]")
    assert (wrong.exit_code, "it must be a JSON object" in wrong.stderr) == (2, True)


def test_a_key_rotates_under_running_controllers(site: Site) -> None:
    """Policies, heartbeats and wills are signed with the new key; the old one still verifies what is under way."""
    high = site.start(GlobalController, "gc-1")
    local = site.start(LocalController, "lc-1")
    assert high.publish_policy_update({"level": 1})[1].wait(60)
    eventually(lambda: len(state(site).online) == 2)
    done = site.run("key", "rotate", "--new", "k2", "--timeout", "60")
    assert (done.exit_code, done.stdout) == (0, "k2 active\n"), done.output
    assert [line[:5] for line in done.stderr.splitlines()] == [f"[{number}/5]" for number in range(1, 6)]
    ring = site.keys.refresh()
    assert ring.signer().kid == "k2"
    assert ring.keys["k1"].status is KeyStatus.ACCEPTED and ring.keys["k1"].retires > 0
    assert state(site).signed_with("k1") == []
    assert (high._will_signer, local._will_signer) == ("k2", "k2")
    listed = CliRunner().invoke(cli, ["controller", "key", "list", "--key-file", str(site.keys.path)])
    assert "accepted until" in listed.stdout


def test_a_rotation_names_the_controller_that_lacks_the_key_and_continues(site: Site) -> None:
    """Another machine has its own ring; nothing is signed with the new key before all accept it."""
    elsewhere = KeyFile(site.directory / "other.json")
    elsewhere.save(site.keys.ring)
    site.start(LocalController, "lc-1")
    site.start(LocalController, "lc-2", key_file=str(elsewhere.path))
    eventually(lambda: len(state(site).online) == 2)
    missing = site.run("key", "rotate", "--new", "k2", "--timeout", "1")
    assert missing.exit_code == 1
    # One that has the key may need longer than a second to prove it, so the command is repeated.
    eventually(lambda: rotation_waits_for(site, "no proof of lc-2 about key k2. Add it on their machines"))
    assert site.keys.refresh().signer().kid == "k1"
    elsewhere.update(lambda ring: ring.add(site.keys.ring.keys["k2"]))
    eventually(lambda: rotation_waits_for(site, "Activate it on their machines"))
    elsewhere.update(lambda ring: ring.activate("k2"))
    done = site.run("key", "rotate", "--timeout", "60")
    assert (done.exit_code, done.stdout) == (0, "k2 active\n"), done.output


def rotation_waits_for(site: Site, what: str) -> bool:
    """Continue the rotation for a second; return whether it names this as missing."""
    return what in site.run("key", "rotate", "--timeout", "1").stderr


def test_the_keys_of_one_controller_are_exported_and_imported(site: Site) -> None:
    """Its own secret and everybody's public key; the others' secrets stay."""
    for owner, role, region in (("lc-1", "local", "zone-A"), ("rc-1", "regional", "zone-A")):
        made = generate(owner, owner=owner, role=role, region=region)
        site.keys.update(lambda ring, made=made: ring.add(made).activate(made.kid))
    site.keys.update(lambda ring: KeyRing({kid: key for kid, key in ring.keys.items() if kid != "k1"}))
    keys, out = ["--key-file", str(site.keys.path)], str(site.directory / "lc-1.json")
    done = CliRunner().invoke(cli, ["controller", "key", "export", "--for", "lc-1", "--out", out, *keys])
    assert (done.exit_code, done.stdout) == (0, f"{out}: 2 keys, lc-1 signs with lc-1\n"), done.output
    assert Path(out).stat().st_mode & 0o777 == 0o600
    there = ["--key-file", str(site.directory / "there.json")]
    for expected in ("2 keys added, 0 known\n", "0 keys added, 2 known\n"):
        done = CliRunner().invoke(cli, ["controller", "key", "import", out, *there])
        assert (done.exit_code, done.stdout) == (0, expected), done.output
    ring = KeyFile(site.directory / "there.json").ring
    assert (ring.signer("lc-1").kid, ring.keys["rc-1"].can_sign) == ("lc-1", False)
    stranger = CliRunner().invoke(cli, ["controller", "key", "export", "--for", "lc-9", "--out", out, *keys])
    assert (stranger.exit_code, "the key ring has no active key" in stranger.stderr) == (2, True)
    other = KeyFile(site.directory / "other.json")
    other.save(KeyRing().add(generate("rc-1")))
    clash = CliRunner().invoke(cli, ["controller", "key", "import", out, "--key-file", str(other.path)])
    assert (clash.exit_code, "another key with the identifier 'rc-1'" in clash.stderr) == (2, True)


def test_watch_shows_a_controller_that_has_become_silent(site: Site) -> None:
    """With `--once` by the age of its retained heartbeat; with `--json` as a line when it happens."""
    local = site.start(LocalController, "lc-1", heartbeat_interval=0.5)
    eventually(lambda: len(state(site).online) == 1)
    local._heartbeats.close()  # it hangs: its connection stays
    lines: list[str] = []
    eventually(lambda: lines.extend(site.run("watch", "--json", "--duration", "3").stdout.splitlines()) or lines)
    assert [json.loads(line)["status"] for line in lines][-1] == "silent"
    once: list[str] = []
    eventually(lambda: once.append(site.run("watch", "--once", "--duration", "0.5", "--json").stdout) or once[-1])
    assert json.loads(once[-1])["status"] == "silent"
