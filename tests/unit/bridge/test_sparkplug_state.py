"""What the bridge remembers of Sparkplug nodes: births, gaps, deaths, redelivery, restarts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.bridge.dead_letters import LetterSelection, Retried, retry
from mqttkit.bridge.flow.mapping import open_parser
from mqttkit.bridge.flow.route import Route, Share
from mqttkit.bridge.metric import MetricParser, MetricRefusal, Refusal
from mqttkit.bridge.sparkplug import state_file
from mqttkit.bridge.sparkplug.parser import SparkplugParser
from mqttkit.bridge.sparkplug.payload import payload_class
from mqttkit.bridge.sparkplug.rebirth import Rebirths
from mqttkit.bridge.sparkplug.topic import NAMESPACE, NodeName
from mqttkit.bridge.subscription import bridge_filters
from mqttkit.errors import MissingPart, SinkBroken, SinkUnavailable, UsageError
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings, SparkplugSettings
from tests.support.bridges import rows
from tests.support.pipelines import OTHER, TENANT, Bench
from tests.support.sparkplug import DATA_SET, DOUBLE, INT32, EdgeNode, metric, payload

BRIDGE = BridgeSettings(sparkplug=SparkplugSettings(enabled=True))
BIRTH = {"a": (INT32, 1), "b": (DOUBLE, 2.0)}
OTHER_ORDER = {"b": (DOUBLE, 2.0), "a": (INT32, 1)}
T0 = 1_795_233_600_000


class Plant:
    """A node whose messages go through a pipeline into SQLite."""

    def __init__(self, directory: Path, bridge: BridgeSettings = BRIDGE) -> None:
        self.directory = directory
        self.sent: list[Message] = []
        self.node = EdgeNode(self._keep, TENANT)
        self.bridge = bridge
        self.restart()

    def _keep(self, topic: str, body: bytes) -> None:
        self.sent.append(Message(topic, body, qos=1, mid=len(self.sent) % 65_535 + 1, epoch=1))

    def restart(self) -> None:
        """Start another bridge with what the last one has saved."""
        self.bench = Bench(self.directory)
        self.parser = open_parser(self.bridge, self.directory / "state.db")
        self.parser.open()
        self.bench.pipeline._parser = self.parser

    def deliver(self, messages: list[Message] | None = None, *, together: bool = True) -> None:
        """Deliver what was sent since, or these messages, in one batch or one by one."""
        wanted, self.sent = (self.sent, []) if messages is None else (messages, self.sent)
        for batch in [wanted] if together else [[one] for one in wanted]:
            self.bench.offer(*batch)
            self.bench.pipeline.step(1.0)

    def values(self) -> list[tuple[str, float]]:
        query = "SELECT metric_name, value FROM metrics WHERE metric_name != 'bdSeq' ORDER BY rowid"
        return rows(self.directory / "metrics.db", query)  # type: ignore[return-value]

    def letters(self) -> list[str]:
        return [stored.letter.reason for stored in self.bench.sink.letters.read()]

    def count(self, name: str) -> int:
        return self.parser.counts().get(name, 0)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    found = Plant(tmp_path)
    yield found
    found.parser.close()


def test_sequence_numbers_start_again_after_255(plant: Plant) -> None:
    """600 messages in a row have no gap."""
    plant.node.birth(BIRTH)
    for number in range(600):
        plant.node.data({"a": number})
    plant.deliver()
    plant.bench.pipeline.step(1.0)  # a batch has 500
    assert plant.values()[2:] == [("a", float(number)) for number in range(600)]
    assert (plant.count("gaps"), plant.letters()) == (0, [])


def test_after_a_gap_no_alias_is_read_until_the_next_birth(plant: Plant) -> None:
    """Values with a name and a type are stored, the others are kept as dead letters."""
    plant.node.birth(BIRTH)
    plant.node.data({"a": 5})
    plant.deliver(plant.sent[:1])
    plant.sent.clear()  # the data is lost
    plant.node.data({"a": 6})
    plant.node.publish(plant.node.topic("DATA"), payload([metric("named", INT32, 7)], seq=3))
    plant.node.seq = 4
    plant.node.data({"b": 8.0})
    plant.deliver()
    assert plant.values() == [("a", 1.0), ("b", 2.0), ("named", 7.0)]
    assert plant.letters() == ["sparkplug_alias"] * 2
    assert (plant.count("gaps"), plant.count("unknown_aliases")) == (1, 2)
    plant.node.birth(OTHER_ORDER)
    plant.node.data({"a": 9})
    plant.deliver()
    assert plant.values()[-1] == ("a", 9.0)


def test_data_before_any_birth_is_kept(plant: Plant) -> None:
    plant.node.aliases["", "a"] = 0, INT32
    plant.node.data({"a": 1})
    plant.deliver()
    assert (plant.values(), plant.letters()) == ([], ["sparkplug_alias"])
    assert plant.parser.memory.size == 0  # type: ignore[attr-defined]


def test_death_ends_the_aliases_and_stores_nothing(plant: Plant) -> None:
    """A death of an earlier connection is ignored; a device's death ends only that device."""
    plant.node.bd_seq = 1
    plant.node.birth(BIRTH)
    plant.node.birth({"x": (INT32, 3)}, device="press")
    plant.node.bd_seq = 0
    plant.node.death()
    plant.node.data({"x": 4}, device="press")
    plant.node.death("press")
    plant.node.data({"x": 5}, device="press")
    plant.node.data({"a": 6})
    plant.deliver()
    assert plant.values() == [("a", 1.0), ("b", 2.0), ("x", 3.0), ("x", 4.0), ("a", 6.0)]
    assert (plant.count("stale_deaths"), plant.count("deaths"), plant.letters()) == (1, 1, ["sparkplug_alias"])
    plant.node.bd_seq = 1
    plant.node.death()
    plant.node.data({"a": 7})
    plant.deliver()
    assert (plant.count("deaths"), plant.letters()) == (2, ["sparkplug_alias"] * 2)


def whole_life(node: EdgeNode) -> None:
    """Two lives of a node, with other aliases in the second."""
    node.birth(BIRTH, timestamp=T0)
    node.data({"a": 10, "b": 11.0}, timestamp=T0 + 1)
    node.death()
    node.bd_seq = 1
    node.birth(OTHER_ORDER, timestamp=T0 + 2)
    node.data({"a": 12}, timestamp=T0 + 3)


LIVES = [("a", 1.0), ("b", 2.0), ("a", 10.0), ("b", 11.0), ("b", 2.0), ("a", 1.0), ("a", 12.0)]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("first", range(5))
def test_redelivered_messages_are_stored_once(plant: Plant, first: int, restart: bool) -> None:
    """The broker sends again what was committed and not acknowledged, from any message on."""
    whole_life(plant.node)
    sent = list(plant.sent)
    plant.deliver(together=False)
    if restart:
        plant.parser.close()
        plant.restart()
    plant.deliver(sent[first:])
    plant.node.data({"b": 13.0}, timestamp=T0 + 4)
    plant.deliver()
    assert plant.values() == [*LIVES, ("b", 13.0)]
    assert (plant.letters(), plant.count("gaps")) == ([], 0)


def test_crash_between_the_commit_and_the_saved_state(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages come again and are read with the state before them, so each is a duplicate."""
    whole_life(plant.node)
    sent = list(plant.sent)
    plant.deliver(sent[:2])
    saving = SparkplugParser.save
    monkeypatch.setattr(SparkplugParser, "save", lambda _self: None)
    plant.deliver(sent[2:])
    monkeypatch.setattr(SparkplugParser, "save", saving)
    plant.parser.close()
    plant.restart()
    plant.deliver(sent[2:])
    assert plant.values() == LIVES
    plant.bench.check(duplicate=4)


def test_discarded_batch_leaves_no_trace(plant: Plant) -> None:
    """After a failed commit or a reconnect the same messages are parsed again."""
    whole_life(plant.node)
    for _ in range(3):
        plant.parser.begin()
        found = [one for message in plant.sent for one in plant.parser.parse_message(message, T0)]
    assert [(one.metric_name, one.value) for one in found if one.metric_name != "bdSeq"] == LIVES
    plant.parser.accept()
    assert plant.count("births") == 2


def test_state_that_cannot_be_saved_holds_back_the_acknowledgement(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a sink whose disk is full: tried again, then acknowledged."""
    failures = [SinkUnavailable("disk full"), SinkUnavailable("disk full")]
    saving = SparkplugParser.save

    def save(parser: SparkplugParser) -> None:
        assert plant.bench.acknowledged == []
        if failures:
            raise failures.pop()
        saving(parser)

    monkeypatch.setattr(SparkplugParser, "save", save)
    plant.node.birth(BIRTH)
    plant.deliver()
    assert (plant.bench.acknowledged, failures) == ([1], [])


@pytest.mark.parametrize("kind", ["BIRTH", "DEATH"])
@pytest.mark.parametrize(
    "body",
    [b"\xff", payload([metric("", INT32, 1, alias=1)]), payload([])],
    ids=["no protobuf", "no name", "no metric"],
)
def test_birth_or_death_that_cannot_be_read_ends_the_aliases(plant: Plant, kind: str, body: bytes) -> None:
    """It may be a birth with other aliases, or without any."""
    plant.node.birth(BIRTH)
    plant.node.publish(plant.node.topic(kind), body)
    plant.node.data({"a": 2})
    plant.deliver()
    assert plant.values() == [("a", 1.0), ("b", 2.0)]
    assert plant.letters()[-1] == "sparkplug_alias"


def test_birth_that_is_too_long_ends_the_aliases(tmp_path: Path) -> None:
    """Its aliases are not known, and the earlier ones are not valid."""
    plant = Plant(tmp_path, BridgeSettings(sparkplug=SparkplugSettings(enabled=True), payload_limit=400))
    plant.node.birth(BIRTH)
    plant.node.birth({"x" * 500: (INT32, 1), "a": (INT32, 1)})
    plant.node.data({"a": 2})
    plant.deliver()
    assert plant.letters() == ["payload_too_large", "sparkplug_alias"]
    plant.parser.close()


def test_retained_messages_of_a_node_are_ignored(plant: Plant) -> None:
    """The specification forbids them; each new subscription would bring an old birth."""
    plant.node.birth(BIRTH)
    plant.deliver([message._replace(retain=True) for message in plant.sent])
    assert (plant.values(), plant.count("ignored")) == ([], 1)


def test_memory_forgets_the_longest_silent_node(tmp_path: Path) -> None:
    """It is counted, also in the file, and its data becomes dead letters."""
    plant = Plant(tmp_path, BridgeSettings(sparkplug=SparkplugSettings(enabled=True, memory=5_000)))
    nodes = [EdgeNode(plant._keep, TENANT, node=f"e{number}") for number in range(10)]
    for node in nodes:
        node.birth(BIRTH)
    plant.deliver(together=False)
    for node in nodes:
        node.data({"a": 2})
    plant.deliver()
    kept = 10 - plant.count("dropped_nodes")
    assert 1 <= kept < 10
    assert len(plant.letters()) == 10 - kept
    plant.parser.close()
    plant.restart()
    nodes[-1].data({"a": 3})
    plant.deliver()
    assert plant.values()[-1] == ("a", 3.0)
    plant.parser.close()


def test_many_aliases_of_one_name_count_too(plant: Plant) -> None:
    """A node cannot fill the memory unseen."""
    same = [metric("a", INT32, 1, alias=alias) for alias in range(1_000)]
    plant.node.publish(plant.node.topic("BIRTH"), payload(same))
    plant.deliver()
    assert plant.parser.memory.size > 100_000  # type: ignore[attr-defined]


def test_letter_of_a_partly_refused_message_is_retried_without_doubles(plant: Plant) -> None:
    """The letter has the whole message; what is stored already is a duplicate, and the rest is still refused."""
    plant.node.publish(plant.node.topic("BIRTH"), payload([metric("a", INT32, 1), metric("s", DATA_SET, b"")]))
    plant.deliver()
    assert (plant.values(), plant.letters()) == ([("a", 1.0)], ["sparkplug_type"])
    known = plant.bench.registry
    assert retry(plant.bench.sink, plant.parser, known, LetterSelection()) == Retried(0, 0, 1)  # type: ignore[arg-type]
    assert plant.values() == [("a", 1.0)]


def test_retry_reads_aliases_from_the_saved_births(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a node that two sessions know differently."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    lives = {}
    for session, births in (("one", [BIRTH, BIRTH]), ("two", [BIRTH, OTHER_ORDER])):
        parser = open_parser(BRIDGE, state_file.state_path(session))
        parser.open()
        for number, birth in enumerate(births):
            node = EdgeNode(lambda topic, body: lives.update({topic: body}), TENANT, node=f"e{number}")
            node.birth(birth)
            parser.parse_message(Message(node.topic("BIRTH"), lives[node.topic("BIRTH")]), T0)
            node.data({"a": 5})
        parser.accept()
        parser.save()
        parser.close()
    reader = open_parser(BRIDGE)
    reader.open()
    data = {topic: body for topic, body in lives.items() if "NDATA" in topic}
    (agreed, doubtful) = sorted(data)
    assert [one.metric_name for one in reader.parse_all(agreed, data[agreed], T0)] == ["a"]
    with pytest.raises(Refusal):
        reader.parse_all(doubtful, data[doubtful], T0)


def test_state_file_that_is_not_one_stops_the_bridge(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SinkBroken):
        open_parser(BRIDGE, tmp_path / "state.db").open()


def test_rebirth_is_requested_once_a_minute_for_each_node() -> None:
    asked: list[tuple[str, bytes]] = []
    now = [0.0]
    rebirths = Rebirths(lambda topic, body: asked.append((topic, body)), clock=lambda: now[0])
    for moment in (0.0, 59.0, 61.0):
        now[0] = moment
        rebirths.note({NodeName("g", "e1"): "why", NodeName("g", "e2"): "why"})
    assert [topic for topic, _ in asked] == ["spBv1.0/g/NCMD/e1", "spBv1.0/g/NCMD/e2"] * 2
    assert b"Node Control/Rebirth" in asked[0][1]
    silent = Rebirths(None)
    silent.note({NodeName("g", "e1"): "why"})
    assert (rebirths.requests, silent.requests) == (4, 0)


def test_group_cannot_read_sparkplug() -> None:
    """It would deal the messages of one node to several bridges."""
    with pytest.raises(UsageError, match="group"):
        bridge_filters(BridgeSettings(group="g", sparkplug=SparkplugSettings(enabled=True)))


def test_filters_of_the_bridge_do_not_overlap() -> None:
    """A message that comes twice at QoS 0 would look like a gap."""
    enabled = SparkplugSettings(enabled=True)
    assert bridge_filters(BridgeSettings()) == ["metrics/#"]
    assert bridge_filters(BRIDGE) == ["metrics/#", "spBv1.0/#"]
    every = BridgeSettings(topic="{tenant_id}/{agent_id}/{metric_name}", sparkplug=enabled)
    assert bridge_filters(every) == ["#"]


def test_protobuf_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(MissingPart) as caught:
        payload_class.__wrapped__()
    assert caught.value.hint == "pip install 'mqttkit[sparkplug]'"


def test_outputs_share_the_metrics_of_one_message(plant: Plant) -> None:
    """Each metric goes to the outputs that want it; the first one reports what none wants."""
    plant.node.birth({"a": (INT32, 1), "b": (INT32, 2), "c": (INT32, 3)})
    (message,) = plant.sent
    found = plant.parser.parse_all(message.topic, message.payload, T0)
    shares = [Share(metrics=("a", "bdSeq")), Share(frozenset({OTHER})), Share(frozenset({TENANT}), ("b",))]
    plain = MetricParser(BRIDGE.topic, payload_limit=1_000)
    first, second, third = (Route("o", shares, position, plain, late=NAMESPACE) for position in range(3))
    assert all(route.takes(message.topic) for route in (first, second, third))
    with pytest.raises(Refusal) as caught:
        first.select(message.topic, found)
    assert caught.value.reason is MetricRefusal.UNROUTED
    assert [one.metric_name for one in caught.value.metrics] == ["bdSeq", "a"]
    assert second.select(message.topic, found) == []
    assert [one.metric_name for one in third.select(message.topic, found)] == ["b"]
