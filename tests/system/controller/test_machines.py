"""Controllers on several machines: namespaces with their own addresses, the broker on another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mqttkit.controller.security.keys import KeyFile, KeyRing, generate
from tests.support.brokers import need
from tests.support.controllers import eventually
from tests.support.network import Network, network

pytestmark = pytest.mark.system


class Lines:
    """A process on a machine and the JSON lines that it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def having(self, name: str) -> list[Any]:
        """Return the values under a name, in the order printed."""
        return [line[name] for line in list(self.lines) if name in line]

    def stop(self) -> int:
        """End it with SIGTERM and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._thread.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class Plant:
    """Machines, brokers and controllers of one test."""

    def __init__(self, directory: Path, net: Network, stack: ExitStack) -> None:
        self.directory, self.net, self.stack = directory, net, stack
        self.keys = directory / "keys.json"
        KeyFile(self.keys).save(KeyRing().add(generate("k")).activate("k"))

    def broker(self, machine: str) -> subprocess.Popen[str]:
        """Start a mosquitto on a machine and wait until it answers there."""
        conf = self.directory / f"{machine}.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        conf.write_text(f"listener 1883 {self.net.address(machine)}\nallow_anonymous true\n{user}log_type none\n")
        process = self.net.run(machine, [need("mosquitto"), "-c", str(conf)])
        self.stack.callback(process.wait, 10)
        self.stack.callback(process.kill)
        probe = ["mosquitto_pub", "-h", self.net.address(machine), "-t", "probe", "-m", "x"]
        eventually(lambda: self.net.run(machine, probe, stderr=subprocess.DEVNULL).wait(10) == 0)
        return process

    def controller(self, machine: str, role: str, *arguments: str, brokers: tuple[str, ...] = ("broker",)) -> Lines:
        """Start a controller on a machine, named after it."""
        hosts = [part for name in brokers for part in ("-h", self.net.address(name))]
        options = ["--controller-id", machine, "--key-file", str(self.keys), "-k", "2", "--heartbeat", "1", *hosts]
        state = ["--state-file", str(self.directory / f"{machine}.db"), "--transport", "mqtt"]
        process = self.net.mqttkit(
            machine, "controller", role, *options, *state, *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        lines = Lines(process)
        self.stack.callback(lambda: process.poll() is None and lines.stop())
        return lines


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Callable[..., Plant]]:
    """Makes a plant of the machines named."""
    with ExitStack() as stack:
        yield lambda *machines: Plant(tmp_path, stack.enter_context(network(*machines)), stack)


def complete(lines: Lines) -> bool:
    """Tell whether the cycles received are 1, 2, 3 … without a gap."""
    cycles = sorted(lines.having("cycle"))
    return bool(cycles) and cycles == list(range(1, cycles[-1] + 1))


def test_partition_and_healing_lose_nothing(plant: Callable[..., Plant]) -> None:
    """Local, regional and global on machines of their own; first one is cut off, then the other.

    Reports wait at the sender or in the broker's session and arrive once; the policy is caught up.
    """
    here = plant("broker", "regional", "local", "global")
    here.broker("broker")
    regional = here.controller("regional", "regional")
    local = here.controller("local", "local", "--interval", "0.1")
    eventually(lambda: len(regional.having("cycle")) >= 5)

    here.net.cut("local")
    before = len(local.having("report"))
    (here.directory / "rules.json").write_text('{"mode": "night"}')
    high = here.controller("global", "global", "--policy", str(here.directory / "rules.json"))
    eventually(lambda: len(local.having("report")) > before + 30)
    here.net.heal("local")
    eventually(lambda: "global" in local.having("policy"))
    target = local.having("report")[-1]
    eventually(lambda: max(regional.having("cycle")) >= target and complete(regional), 60)

    here.net.cut("regional")
    before = len(local.having("report"))
    eventually(lambda: len(local.having("report")) > before + 50)
    here.net.heal("regional")
    target = local.having("report")[-1]
    eventually(lambda: max(regional.having("cycle")) >= target and complete(regional), 60)

    assert [local.stop(), high.stop()] == [0, 0]
    cycles = regional.having("cycle")
    assert regional.stop() == 0
    assert len(cycles) == len(set(cycles)), "a report was handled twice"


def test_reports_go_on_by_the_other_broker_when_one_is_killed(plant: Callable[..., Plant]) -> None:
    """`-h` twice: everybody moves, and every report arrives."""
    here = plant("broker", "spare", "regional", "local")
    first = here.broker("broker")
    here.broker("spare")
    both = ("broker", "spare")
    regional = here.controller("regional", "regional", brokers=both)
    local = here.controller("local", "local", "--interval", "0.2", brokers=both)
    eventually(lambda: len(regional.having("cycle")) >= 5)
    first.kill()
    target = local.having("report")[-1] + 20
    eventually(lambda: max(regional.having("cycle")) >= target and complete(regional), 80)
    assert [local.stop(), regional.stop()] == [0, 0]


def test_latency_and_throughput_between_machines_are_measured(
    plant: Callable[..., Plant], capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured from the local controller's machine over the broker's, and printed."""
    here = plant("broker", "local")
    here.broker("broker")
    found: dict[str, dict[str, Any]] = {}
    for scenario, load in (("roundtrip", ("--rate", "500")), ("pub", ())):
        command = ["bench", scenario, "-q", "1", "--duration", "2", *load, "--json", "-h", here.net.address("broker")]
        process = here.net.mqttkit("local", *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        found[scenario] = json.loads(output)["metrics"]
    latency, throughput = found["roundtrip"], found["pub"]
    with capsys.disabled():
        times = f"{latency['p50']:.2f} ms p50, {latency['p99']:.2f} ms p99"
        print(f"\nbetween machines: round trip {times}; {throughput['rate']:,.0f} publishes/s at QoS 1")
    assert 0 < latency["p50"] <= latency["p99"]
    assert throughput["rate"] > 0


def test_a_cut_cable_is_a_cut_cable(plant: Callable[..., Plant]) -> None:
    """The network of these tests does what it says: nothing passes while cut, all after."""
    here = plant("one", "two")
    here.broker("two")
    probe = ["mosquitto_pub", "-h", here.net.address("two"), "-t", "x", "-n", "-q", "1"]

    def passes() -> bool:
        process = here.net.run("one", ["timeout", "2", *probe], stderr=subprocess.DEVNULL)
        return process.wait(60) == 0

    eventually(passes)
    here.net.cut("two")
    assert not passes()
    here.net.heal("two")
    eventually(passes)
