"""Several outputs: what each stores, and the settings of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mqttkit.bridge.flow.mapping import open_parser
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.flow.route import Route, Share
from mqttkit.bridge.metric import MetricParser
from mqttkit.bridge.outputs.plan import chosen_sink, plan_outputs
from mqttkit.bridge.outputs.supervisor import OutputSet, RunningOutput
from mqttkit.bridge.service import RunOptions
from mqttkit.config import load_settings
from mqttkit.errors import ConfigError, SinkBroken, UsageError
from mqttkit.settings import BridgeSettings, ClientSettings, MqttSettings, OutputSettings, Settings
from tests.support.bridges import metric_topic
from tests.support.pipelines import OTHER, TENANT, Bench, message

SHARES = [Share(metrics=("temp*", "battery")), Share(frozenset({OTHER})), Share(frozenset({TENANT}), ("battery",))]


def routes(*shares: Share) -> list[Route]:
    parser = MetricParser(BridgeSettings.topic, payload_limit=1_000)
    return [Route(f"o{position}", shares, position, parser) for position in range(len(shares))]


@pytest.mark.parametrize(
    ("topic", "takers", "unrouted"),
    [
        (metric_topic(metric="temperature"), [0], False),
        (metric_topic(metric="battery"), [0, 2], False),
        (metric_topic(OTHER.upper(), metric="hum"), [1], False),
        (metric_topic(metric="hum"), [0], True),
        (metric_topic(metric="a temp"), [0], False),
        ("metrics//x", [0], False),
    ],
)
def test_each_topic_belongs_to_its_outputs(topic: str, takers: list[int], unrouted: bool) -> None:
    """Topics that no output wants, or that are none of a metric, belong to the first: they become dead letters once."""
    found = [position for position, route in enumerate(routes(*SHARES)) if route.takes(topic)]
    assert found == takers
    assert routes(*SHARES)[0].is_unrouted(topic) == unrouted


def test_outputs_together_store_every_metric_and_every_dead_letter_once(tmp_path: Path) -> None:
    """Each pipeline acknowledges everything, and its books balance."""
    topics = [
        metric_topic(metric="temperature"),
        metric_topic(metric="battery"),
        metric_topic(metric="hum"),
        "metrics//x",
    ]
    stored: list[list[str]] = []
    letters: list[list[str]] = []
    for number, route in enumerate(routes(SHARES[0], Share(metrics=("battery",)))):
        bench = Bench(directory_of(tmp_path, number))
        bench.pipeline.route = route
        bench.pipeline.intake.offer(
            [message(position, b'{"value":1}')._replace(topic=topic) for position, topic in enumerate(topics)]
        )
        bench.pipeline.step(1.0)
        stored.append([metric.metric_name for batch in bench.sink.batches for metric in batch.metrics])
        letters.append([letter.reason for batch in bench.sink.batches for letter in batch.letters])
        assert_settled(bench.pipeline, len(bench.acknowledged), len(topics))
    assert stored == [["temperature", "battery"], ["battery"]]
    assert letters == [["unrouted", "topic_shape"], []]


def test_metrics_that_a_mapping_names_go_to_their_outputs(tmp_path: Path) -> None:
    """Names come from the payload, tenants from the topic; a metric that no output stores is one dead letter."""
    mapping = "items(@)[].{name: key, value: value}"
    outputs = (
        OutputSettings(sink="sqlite:a", name="a", only_metrics=("temp*",), only_tenants=(TENANT,)),
        OutputSettings(sink="sqlite:b", name="b", only_metrics=("battery",)),
    )
    stored: list[list[str]] = []
    letters: list[list[str]] = []
    for number, output in enumerate(plan_outputs(settings(*outputs, mapping=mapping))):
        bench = Bench(directory_of(tmp_path, number), parser=open_parser(output.settings.bridge))
        bench.registry.known = set  # type: ignore[method-assign,assignment]
        bench.pipeline.route = output.route
        bench.offer(
            message(1, b'{"temperature":20,"battery":3,"hum":40}'),
            message(2, b'{"temperature":21,"battery":4}', tenant=OTHER),
            message(3, b'{"value":"x"}')._replace(topic="metrics//x"),
        )
        bench.pipeline.step(1.0)
        stored.append(
            [f"{metric.metric_name} {metric.value:g}" for one in bench.sink.batches for metric in one.metrics]
        )
        letters.append([letter.reason for one in bench.sink.batches for letter in one.letters])
        assert bench.acknowledged == [1, 2, 3]
        assert bench.pipeline.books.balance().difference == 0
    assert stored == [["temperature 20"], ["battery 3", "battery 4"]]
    assert letters == [["unrouted", "unrouted", "topic_shape"], []]


def directory_of(tmp_path: Path, number: int) -> Path:
    directory = tmp_path / str(number)
    directory.mkdir()
    return directory


def assert_settled(pipeline: Pipeline, acknowledged: int, expected: int) -> None:
    assert acknowledged == expected
    balance = pipeline.books.balance()
    assert (balance.difference, balance.in_flight) == (0, 0)
    assert balance.received + pipeline.books.put_aside == expected


def settings(*outputs: OutputSettings, **bridge: object) -> Settings:
    return Settings(
        mqtt=MqttSettings(client=ClientSettings(client_id="c")),
        bridge=BridgeSettings(outputs=outputs, tenants="t", **bridge),  # type: ignore[arg-type]
    )


TWO = (OutputSettings(sink="sqlite:a.db"), OutputSettings(sink="redis://h", name="hot", stream="s"))


def test_each_output_has_its_own_session_group_and_sink() -> None:
    """Two outputs of one group must not share the group's messages between them."""
    first, second = plan_outputs(settings(*TWO, group="g", health_port=1))
    assert (first.name, second.name) == ("sqlite", "hot")
    assert (first.settings.bridge.group, second.settings.bridge.group) == ("g-sqlite", "g-hot")
    assert (first.settings.mqtt.client.client_id, second.settings.mqtt.client.client_id) == ("c-sqlite", "c-hot")
    assert (second.settings.bridge.sink, second.settings.bridge.stream) == ("redis://h", "s")
    assert second.settings.bridge.health_port is None


@pytest.mark.parametrize("chosen", ["hot", "redis://h"])
def test_sink_chooses_one_output(chosen: str) -> None:
    """By its name or its address, with its own options."""
    (planned,) = plan_outputs(settings(*TWO, sink=chosen))
    assert planned.name == "hot"
    found = chosen_sink(BridgeSettings(outputs=TWO, sink=chosen))
    assert (found.sink, found.stream, found.outputs) == ("redis://h", "s", ())


def test_output_that_cannot_be_chosen_is_an_error_of_usage() -> None:
    """The error names the outputs."""
    for action in (
        lambda: plan_outputs(settings(*TWO, sink="x")),
        lambda: chosen_sink(BridgeSettings(outputs=TWO, sink="x")),
    ):
        with pytest.raises(UsageError) as caught:
            action()
        assert "sqlite, hot" in str(caught.value.hint)
    with pytest.raises(UsageError, match="several outputs"):
        chosen_sink(BridgeSettings(outputs=TWO))


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ((OutputSettings(),), "has no sink"),
        ((TWO[0], OutputSettings(sink="sqlite:b.db")), "have the name sqlite"),
        ((TWO[0], OutputSettings(sink="sqlite:./a.db", name="x")), "store in the same place"),
        (
            (
                OutputSettings(sink="http://a", dead_letters="l.db"),
                OutputSettings(sink="jsonl:b", dead_letters="./l.db"),
            ),
            "have one file for dead letters",
        ),
    ],
)
def test_outputs_that_would_disturb_each_other_are_refused(outputs: tuple[OutputSettings, ...], reason: str) -> None:
    """Two with one name would share a session; with one ledger, each would skip what the other has stored."""
    with pytest.raises(UsageError, match=reason):
        plan_outputs(settings(*outputs))


@pytest.mark.parametrize(("name", "value"), [("table", "t"), ("sink_timeout", 1.0), ("live", False)])
def test_option_of_one_sink_beside_several_outputs_is_an_error(name: str, value: object) -> None:
    """It would apply to none of them."""
    found = settings(*TWO, **{name: value})
    for action in (lambda: plan_outputs(found), lambda: chosen_sink(dataclasses.replace(found.bridge, sink="hot"))):
        with pytest.raises(UsageError, match=f"bridge.{name} applies to one sink, and there are 2 outputs") as caught:
            action()
        assert f"{{sink: …, {name}: …}}" in str(caught.value.hint)


def test_outputs_of_a_stronger_source_replace_the_sink_of_a_weaker_one(tmp_path: Path) -> None:
    """Otherwise the sink in the file would choose among the outputs of the command line."""
    path = tmp_path / "mqttkit.yaml"
    path.write_text("bridge: {sink: 'sqlite:file.db'}\n")
    flags = {"bridge.outputs": [{"sink": "sqlite:a.db"}, {"sink": "jsonl:b"}]}
    found = load_settings(str(path), environ={}, flags=flags, profile={}).settings.bridge
    assert found.sink is None
    assert [output.sink for output in found.outputs] == ["sqlite:a.db", "jsonl:b"]


def test_outputs_are_read_from_the_settings_file(tmp_path: Path) -> None:
    """File names in them are relative to the file; an unknown key is an error with its line."""
    path = tmp_path / "mqttkit.yaml"
    text = "bridge:\n  outputs:\n    - {sink: 'sqlite:m.db', token_file: token, only_metrics: [a, 'b*']}\n"
    path.write_text(text)
    found = load_settings(str(path), environ={}, flags={}, profile={}).settings.bridge.outputs
    expected = OutputSettings(
        sink=f"sqlite:{tmp_path}/m.db", token_file=str(tmp_path / "token"), only_metrics=("a", "b*")
    )
    assert found == (expected,)
    assert dataclasses.replace(found[0], sink=None) != found[0]
    path.write_text(text.replace("only_metrics", "only_metric"))
    with pytest.raises(ConfigError, match=r"mqttkit\.yaml:3"):
        load_settings(str(path), environ={}, flags={}, profile={})


class FailsOnce:
    """Runs that fail, then one that ends in order."""

    def __init__(self) -> None:
        self.results: list[Exception | int] = [SinkBroken("damaged"), ValueError("a bug"), 0]
        self.is_built = False

    def run(self) -> int:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def stop(self) -> None:
        """Nothing to do."""


def test_output_that_failed_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each error, until it is stopped; then the exit code is that of its last run."""
    monkeypatch.setattr("mqttkit.bridge.outputs.supervisor.RESTART_SECONDS", 0.01)
    runs = FailsOnce()
    output = RunningOutput(plan_outputs(settings(*TWO))[0], lambda _: runs, restart=True)  # type: ignore[arg-type,return-value]
    output.run()
    assert (output.code, output.failure, runs.results) == (0, None, [])
    once = RunningOutput(plan_outputs(settings(*TWO))[0], lambda _: FailsOnce(), restart=False)  # type: ignore[arg-type,return-value]
    once.run()
    assert once.code == 1
    assert once.health().not_ready == ["sqlite: damaged"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("victoria://db", "victoria://db?check=no"),
        ("kafka://db/t", "kafka://db/t?linger.ms=5"),
        ("postgresql://db/plant", "postgresql://db/plant?sslmode=require"),
    ],
)
def test_two_addresses_of_one_place_are_an_error(one: str, other: str) -> None:
    """Their sinks would share a ledger in one process, and each would repeat the requests that the other waits for."""

    def outputs(**ledger: str) -> OutputSet:
        sinks = (OutputSettings(sink=one, name="one"), OutputSettings(sink=other, name="other", **ledger))
        return OutputSet(Settings(bridge=BridgeSettings(outputs=sinks, tenants="tenants.yaml")), RunOptions())

    with pytest.raises(UsageError, match="store in the same place"):
        outputs()
    assert len(outputs(dead_letters="other.db").outputs) == 2
