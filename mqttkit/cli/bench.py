"""`mqttkit bench`."""

from __future__ import annotations

import contextlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from mqttkit.bench.scenarios import SUITE
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import CommandGroup, GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS, Number
from mqttkit.errors import BenchmarkFailed, UsageError

if TYPE_CHECKING:
    from mqttkit.bench.plan import Plan
    from mqttkit.bench.report.conditions import Baseline, Condition
    from mqttkit.bench.report.result import BenchResult
    from mqttkit.settings import BrokerSettings
    from mqttkit.stop import Stop

SCENARIOS = {
    "pub": "Publish, and count acknowledged messages.",
    "sub": "Receive messages that another process publishes.",
    "roundtrip": "Publish and receive in one client.",
    "scan": "Publish replayed advertisements to a subscriber.",
    "fan-in": "Many publishers, one subscriber.",
    "fan-out": "One publisher, many subscribers.",
    "pairs": "Many publishers, a subscriber for each.",
    "shared": "Many publishers, subscribers that share a subscription.",
    "connections": "Many idle connections.",
}
EXPLAINED = """With --rate each message has a scheduled time; latency counts from then,
even if the message left later.

Ends with 1 if messages were lost, dropped or denied, or if --fail-if or --baseline reports a failure; with 3 and a
partial result if the broker goes away."""
EXAMPLES = {
    "pub": "-q 1 --rate 1000 --own-broker",
    "sub": "-q 1 --count 200000 --own-broker --json",
    "roundtrip": "--rate 1000 --own-broker",
    "scan": "--rate 1000 --own-broker --fail-if 'p99>20ms'",
    "fan-in": "--clients 50 --size 200 --rate 2000 --duration 30",
    "fan-out": "--clients 50 --rate 100",
    "pairs": "-q 1 --clients 500 --rate 500 --own-broker",
    "shared": "-q 1 --clients 100 --subscribers 3 --rate 1000 --own-broker",
    "connections": "--clients 5000 --connect-rate 200",
}
CLIENTS = {"connections": 1_000, "fan-in": 10, "fan-out": 10, "pairs": 10, "shared": 10}
"""Clients without --clients; other scenarios have one."""
MANY = 100
"""From this number on --clients replaces the number of clients of a scenario with a name of the suite."""
SHARERS = 5
"""Subscribers of `shared` without --subscribers."""


@dataclass(frozen=True)
class Checks:
    """How the result is judged and shown."""

    conditions: tuple[Condition, ...]
    baseline: Baseline | None
    plot: str | None
    as_json: bool


@click.group(cls=CommandGroup)
def bench() -> None:
    """Measure a broker: rate, latency, loss, and their cost in CPU and memory.

    \b
    mqttkit bench roundtrip --rate 1000 --own-broker
    mqttkit bench sub -q 1 --count 200000 --own-broker --json
    mqttkit bench scan --rate 1000 --own-broker --fail-if 'p99>20ms'
    mqttkit bench p2p-1K-1K-1K-1K --own-broker
    """


OPTIONS = (
    click.option("--rate", type=Number("N", low=0), help="Messages per second in all.  [unlimited]"),
    click.option("--duration", type=SOME_SECONDS, help="How long to run.  [10]"),
    click.option("--count", type=COUNT, help="End after N messages, instead of --duration."),
    click.option(
        "--size", type=Number("BYTES", low=0, high=268_000_000, whole=True), help="Payload size.  [283]"
    ),
    click.option("--clients", type=COUNT, help="Number of clients; for fan-in, pairs and shared of publishers."),
    click.option("--subscribers", type=COUNT, help="shared: number of subscribers.  [5]"),
    click.option("--connect-rate", type=Number("N", low=0), help="New connections per second.  [unlimited]"),
    click.option("--topic", metavar="TOPIC", help="Prefix of the topics.  [mqttkit-bench/ and a random level]"),
    click.option("--source", default="", metavar="FILE", help="scan: recording to replay.  [a bundled one]"),
    click.option(
        "--window", type=Number("N", low=1, high=65_535, whole=True), default=1_000,
        help="QoS 1 and 2: unacknowledged publishes at a time.  [1000]",
    ),
    click.option(
        "--own-broker", is_flag=True, help="Start a mosquitto for the run; with --tls or --ws it uses that."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option(
        "--plot", metavar="FILE", type=click.Path(), help="Draw rate and latency over time: FILE.svg or FILE.png."
    ),
    click.option(
        "--fail-if", multiple=True, metavar="CONDITION", help="End with 1 if the condition holds, such as 'p99>20ms'."
    ),
    click.option(
        "--baseline", metavar="FILE", type=click.Path(), help="End with 1 if a metric got worse since FILE (--json)."
    ),
    click.option("--tolerance", type=Number("N", low=0), default=0.2, help="How much worse is accepted.  [0.2]"),
)  # fmt: skip


def _command(scenario: str, text: str) -> click.Command:
    """Return the command for a scenario."""

    @terse_connection_options
    def command(connection: ConnectionOptions, **given: Any) -> None:
        _run(scenario, connection, given)

    for option in reversed(OPTIONS):
        command = option(command)
    command.__doc__ = text
    return click.command(
        scenario,
        cls=GroupedCommand,
        short_help=text,
        help=f"{text}\n\n{EXPLAINED}\n\n\b\nmqttkit bench {scenario} {EXAMPLES.get(scenario, '--own-broker')}",
        default_qos=str(SUITE[scenario][1].get("qos", 0)) if scenario in SUITE else "0",
    )(command)


def _run(scenario: str, connection: ConnectionOptions, given: dict[str, Any]) -> None:
    """Run a scenario and judge its result."""
    from mqttkit.bench.run import run

    checks = _checks(given)
    plan = _plan(scenario, connection, given)
    settings = replace(
        connection.settings.mqtt, limits=replace(connection.settings.mqtt.limits, max_inflight=given["window"])
    )
    with _stoppable() as stop, contextlib.ExitStack() as stack:
        if given["own_broker"]:
            settings = replace(settings, broker=stack.enter_context(_own_broker(plan)))
        with _progress(plan) as progress:
            result = run(plan, settings, stop=stop, progress=progress)
    _show(result, checks)


for _name, _text in (*SCENARIOS.items(), *((name, text) for name, (text, _) in SUITE.items())):
    bench.add_command(_command(_name, _text))


def _checks(given: dict[str, Any]) -> Checks:
    """Read --fail-if, --baseline and --plot; raise UsageError before the run starts."""
    from mqttkit.bench.report.conditions import parse_condition, read_baseline
    from mqttkit.bench.report.plot import check_plot

    conditions = tuple(parse_condition(text) for text in given["fail_if"])
    baseline = read_baseline(given["baseline"], given["tolerance"]) if given["baseline"] else None
    if given["plot"]:
        check_plot(given["plot"])
    return Checks(conditions, baseline, given["plot"], given["as_json"])


def _plan(scenario: str, connection: ConnectionOptions, given: dict[str, Any]) -> Plan:
    from mqttkit.bench.plan import DEFAULT_SECONDS, Plan
    from mqttkit.topics import check_topic_name

    qos = connection.settings.mqtt.client.qos if connection.qos is None else connection.qos
    plan = Plan(
        scenario=scenario,
        topic=check_topic_name(given["topic"] or f"mqttkit-bench/{uuid.uuid4().hex[:12]}"),
        qos=qos,
        duration=0.0 if given["count"] else DEFAULT_SECONDS,
        source=given["source"],
        tls=connection.settings.mqtt.broker.tls is not None,
        websockets=connection.settings.mqtt.broker.transport == "websockets",
    )
    plan = replace(plan, **(SUITE[scenario][1] if scenario in SUITE else _clients(scenario, given)))
    fields = ("size", "rate", "connect_rate", "duration", "count")
    chosen = {name: given[name] for name in fields if given[name] is not None}
    if given["count"]:
        chosen["duration"] = given["duration"] or 0.0
    if connection.qos is not None:
        chosen["qos"] = qos
    if given["clients"] and scenario in SUITE:
        chosen |= _scaled(plan, given["clients"])
    if given["subscribers"]:
        if plan.layout != "shared":
            raise UsageError("--subscribers is for shared subscriptions", hint="Use --clients, or mqttkit bench shared")
        chosen["subscribers"] = given["subscribers"]
    return replace(plan, **chosen)


def _clients(scenario: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return how many publishers and subscribers a scenario has, and who receives."""
    clients = given["clients"] or CLIENTS.get(scenario, 1)
    counts: dict[str, tuple[int, int]] = {
        "pub": (clients, 0),
        "roundtrip": (1, 1),
        "scan": (1, 1),
        "fan-in": (clients, 1),
        "pairs": (clients, clients),
        "shared": (clients, SHARERS),
        "connections": (0, clients),
    }
    publishers, subscribers = counts.get(scenario, (1, clients))
    layout = scenario if scenario in ("pairs", "shared") else "all"
    return {"publishers": publishers, "subscribers": subscribers, "layout": layout}


def _scaled(plan: Plan, clients: int) -> dict[str, Any]:
    """Return a scenario of the suite with fewer or more of the clients of which it has many."""
    return {name: clients for name in ("publishers", "subscribers") if getattr(plan, name) >= MANY}


def _show(result: BenchResult, checks: Checks) -> None:
    """Print and draw the result; raise BenchmarkFailed if a condition fails."""
    from mqttkit.bench.report.plot import write_plot
    from mqttkit.bench.report.result import as_text

    click.echo(json.dumps(result.as_json()) if checks.as_json else "\n".join(as_text(result)))
    if checks.plot:
        write_plot(result, checks.plot)
    failures = [result.losses] if result.losses else []
    failures += [why for condition in checks.conditions if (why := condition.failure(result.metrics))]
    if checks.baseline is not None:
        failures += checks.baseline.failures(result.metrics)
    if result.partial:
        error = BenchmarkFailed(f"partial result: {result.partial}")
        error.exit_code = result.exit_code or error.exit_code
        raise error
    if failures:
        raise BenchmarkFailed("; ".join(failures))


@contextlib.contextmanager
def _stoppable() -> Iterator[Stop]:
    """Yield an event that the first Ctrl-C or SIGTERM sets."""
    from mqttkit.cli.signals import on_interrupt
    from mqttkit.stop import Stop

    stop = Stop()
    with on_interrupt(stop.set):
        yield stop


@contextlib.contextmanager
def _own_broker(plan: Plan) -> Iterator[BrokerSettings]:
    """Run a broker with the transport of the plan."""
    from mqttkit.bench.own_broker import own_broker
    from mqttkit.bench.usage import allow_files

    allow_files(plan.publishers + plan.subscribers)  # the broker inherits the limit
    with own_broker(tls=plan.tls, websockets=plan.websockets) as broker:
        yield broker


@contextlib.contextmanager
def _progress(plan: Plan) -> Iterator[Callable[[float, int, int], None] | None]:
    """Yield a function that shows progress on stderr; None if that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    from mqttkit.cli.output.progress import progress_text

    def show(seconds: float, sent: int, received: int) -> None:
        sent_text = f"{sent:,} sent, " if sent else ""
        rate = received / max(seconds, 0.001)
        done = progress_text(plan.done(seconds, sent, received), seconds)
        click.echo(f"\r{done}: {sent_text}{received:,} received, {rate:,.0f}/s \x1b[K", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)
