"""From a discovery source over the report to the inventory of the regional controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from mqttkit.controller import GlobalController, LocalController, MemoryBus, RegionalController
from mqttkit.controller.discovery.types import DiscoveryFailed
from mqttkit.controller.security.signing import MAX_BYTES
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, eventually, make_keys, settings_of


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test started."""
    with ExitStack() as opened:
        yield opened


def test_a_discovery_function_fills_the_inventory_of_the_region(tmp_path: Path, stack: ExitStack) -> None:
    """`LocalController(discover=...)`: reports carry what has changed; `controller devices` shows the rest."""
    bus, devices = MemoryBus(), [{"mac": "aa", "ip": "10.0.0.1"}, {"mac": "bb", "ip": "10.0.0.2"}]

    def settings(name: str) -> Any:
        return settings_of(tmp_path, name, transports=("memory",))

    regional = stack.enter_context(RegionalController(settings("rc-1"), broker_at(1), bus=bus))
    regional.subscribe_to_discovery_reports()
    local = stack.enter_context(LocalController(settings("lc-1"), broker_at(1), bus=bus, discover=lambda: devices))
    assert local.run_discovery_cycle(timeout=60)["changes"]["new"] == ["aa", "bb"]
    devices.pop()
    changes = local.run_discovery_cycle(timeout=60)["changes"]
    assert changes == {"new": [], "changed": [], "gone": [{"mac": "bb", "ip": "10.0.0.2"}]}
    assert [(row.owner, row.key, bool(row.gone)) for row in regional.devices()] == [
        ("lc-1", "aa", False), ("lc-1", "bb", True),
    ]  # fmt: skip
    shown = CliRunner().invoke(cli, ["controller", "devices", "--json", "--state-file", str(tmp_path / "rc-1.db")])
    row = json.loads(shown.stdout)
    assert (row["mac"], row["found_by"], row["gone"]) == ("aa", "lc-1", False)
    shown = CliRunner().invoke(cli, ["controller", "devices", "--gone", "--state-file", str(tmp_path / "rc-1.db")])
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["device", "aa", "bb"]
    assert "gone" in shown.stdout.splitlines()[2]


def test_an_older_report_does_not_change_the_inventory(tmp_path: Path, stack: ExitStack) -> None:
    """Reports can overtake each other on the way through two transports."""
    bus = MemoryBus()
    regional = RegionalController(settings_of(tmp_path, "rc-1", transports=("memory",)), broker_at(1), bus=bus)
    stack.callback(regional.disconnect_mqtt, flush=0)
    local = LocalController(settings_of(tmp_path, "lc-1", transports=("memory",)), broker_at(1), bus=bus)
    stack.callback(local.disconnect_mqtt, flush=0)
    older = local._envelope("discovery.report", {"devices": [{"mac": "old"}]})
    eventually(lambda: local._envelope("event", {}).timestamp > older.timestamp)
    regional._keep_devices(local._envelope("discovery.report", {"devices": [{"mac": "new"}]}))
    regional._keep_devices(older)
    assert [row.key for row in regional.devices()] == ["new"]


def test_a_discovery_that_fails_is_an_error_of_the_cycle(tmp_path: Path, stack: ExitStack) -> None:
    """Nothing is reported."""

    def fail() -> list[Any]:
        raise DiscoveryFailed("no cable")

    settings = settings_of(tmp_path, "lc-1", transports=("memory",))
    local = stack.enter_context(LocalController(settings, broker_at(1), bus=MemoryBus(), discover=fail))
    with pytest.raises(DiscoveryFailed, match="no cable"):
        local.run_discovery_cycle()
    assert local.unsent == 0


def test_a_report_that_nobody_would_take_does_not_count_as_the_last_one(tmp_path: Path, stack: ExitStack) -> None:
    """A report beyond the size limit fails at once; the next one tells all changes again."""
    bus = MemoryBus()
    regional = stack.enter_context(
        RegionalController(settings_of(tmp_path, "rc-1", transports=("memory",)), broker_at(1), bus=bus)
    )
    regional.subscribe_to_discovery_reports()
    settings = settings_of(tmp_path, "lc-1", transports=("memory",))
    local = stack.enter_context(LocalController(settings, broker_at(1), bus=bus))
    for name in ("x" * MAX_BYTES, "\ud800"):
        report, promise = local.report_devices([{"mac": "aa", "name": name}])
        assert (report["changes"]["new"], promise.done, promise.ok) == (["aa"], True, False)
    report, promise = local.report_devices([{"mac": "aa", "name": "lamp"}])
    assert report["changes"]["new"] == ["aa"]
    assert promise.wait(60)


def run_local(directory: Path, broker: Mosquitto, base: str, *arguments: str) -> Any:
    """Run `mqttkit controller local` in this process."""
    options = ["--controller-id", "lc-1", "--base", base, "-h", "127.0.0.1", "-p", str(broker.port)]
    files = ["--key-file", str(make_keys(directory)), "--state-file", str(directory / "local.db")]
    return CliRunner().invoke(cli, ["controller", "local", *options, *files, *arguments])


def test_a_command_is_the_source_of_a_local_controller(
    tmp_path: Path, broker: Mosquitto, topic: str, stack: ExitStack
) -> None:
    """`--discover 'COMMAND'`; a scan that fails is a line, and the exit code if it was the last one."""
    regional = RegionalController(settings_of(tmp_path, "rc-1", base=topic), broker_at(broker.port))
    stack.enter_context(regional)
    regional.subscribe_to_discovery_reports()
    (tmp_path / "found").write_text('{"ip": "10.0.0.7", "kind": "camera"}\n')
    command = f"cat {tmp_path / 'found'}"
    done = run_local(tmp_path, broker, topic, "--discover", command, "--cycles", "1")
    assert done.exit_code == 0, done.output
    changes = {"new": 1, "changed": 0, "gone": 0}
    assert json.loads(done.stdout.splitlines()[0]) == {"report": 1, "devices": 1, "changes": changes}
    assert [row.key for row in regional.devices()] == ["10.0.0.7"]
    (tmp_path / "found").unlink()
    failed = run_local(tmp_path, broker, topic, "--discover", command, "--cycles", "1")
    assert failed.exit_code == 1, failed.output
    assert "ended with 1" in json.loads(failed.stdout.splitlines()[0])["error"]


def test_a_policy_changes_the_time_between_scans(
    tmp_path: Path, broker: Mosquitto, topic: str, stack: ExitStack
) -> None:
    """The region's scan_interval goes before the global one; a value that cannot work is not applied."""

    def start(kind: type[Any], name: str) -> Any:
        controller = kind(settings_of(tmp_path, name, base=topic), broker_at(broker.port))
        stack.callback(controller.disconnect_mqtt, flush=0)
        assert controller.connect_mqtt(60)
        return controller

    high, regional = start(GlobalController, "gc-1"), start(RegionalController, "rc-1")
    local = start(LocalController, "lc-2")
    local.subscribe_to_policy_updates()
    assert local.scan_interval(60.0) == 60.0
    high.publish_policy_update({"scan_interval": 30})
    eventually(lambda: local.scan_interval(60.0) == 30.0)
    regional.publish_policy_update({"scan_interval": 0.05})
    eventually(lambda: local.scan_interval(60.0) == 0.05)
    eventually(lambda: local.status()["applied"] == {"global": 1, "zone-A": 1})
    regional.subscribe_to_discovery_reports()
    done = run_local(tmp_path, broker, topic, "--cycles", "4", "--subnet", "10.0.0.0/30")
    assert done.exit_code == 0, done.output  # three minutes without the policy
    regional.publish_policy_update({"scan_interval": "often"})
    eventually(lambda: local.status()["policies"] == {"global": 1, "zone-A": 2})
    assert (local.scan_interval(60.0), local.status()["applied"]) == (30.0, {"global": 1})
