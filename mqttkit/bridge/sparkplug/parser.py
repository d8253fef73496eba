"""Read Sparkplug B messages in addition to the other metrics of a bridge.

A birth gives the names and types of a node's metrics; later data may have only their aliases. So the parser has a
memory, which changes in the order of the messages and is saved with each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mqttkit.bridge.metric import (
    FIRST_MS,
    LAST_MS,
    TOPIC_CACHE_ENTRIES,
    Metric,
    MetricParser,
    MetricRefusal,
    Refusal,
    tags_text,
)
from mqttkit.bridge.sparkplug.aliases import (
    BirthMetric,
    EdgeNode,
    Table,
    advanced,
    bd_seq_of,
    born,
    entry,
    lost,
    table_of,
)
from mqttkit.bridge.sparkplug.memory import NodeMemory, message_identity
from mqttkit.bridge.sparkplug.payload import decode_payload, payload_class
from mqttkit.bridge.sparkplug.rebirth import Rebirths
from mqttkit.bridge.sparkplug.state_file import StateFile, saved_nodes
from mqttkit.bridge.sparkplug.topic import (
    BIRTHS,
    NAMESPACE,
    MessageType,
    NodeName,
    SparkplugTopic,
    agent_of,
    parse_topic,
)
from mqttkit.bridge.sparkplug.values import decode_text, read_value
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings

_NOTHING = Table({}, {})


class _Origin(NamedTuple):
    """What a topic says."""

    address: SparkplugTopic
    tenant: str
    agent: str
    tags: dict[str, str]


class _NotBorn(Refusal):
    """No birth says which metric an alias means."""


class SparkplugParser(MetricParser):
    """Parse messages of Sparkplug B, and pass all others to another parser. Use it from one thread at a time."""

    def __init__(
        self,
        inner: MetricParser,
        bridge: BridgeSettings,
        state: Path | None = None,
        publish: Callable[[str, bytes], object] | None = None,
    ) -> None:
        """Keep the memory in the file `state`. `publish` sends a rebirth request. Raise MissingPart."""
        super().__init__(bridge.topic, payload_limit=bridge.payload_limit)
        payload_class()
        self.rebirths = Rebirths(publish if bridge.sparkplug.rebirth else None)
        self._inner = inner
        self._tenants = bridge.sparkplug.tenants()
        self._memory = NodeMemory(bridge.sparkplug.memory)
        self._changed: dict[NodeName, EdgeNode] = {}
        self._dropped: set[NodeName] = set()
        self._seen: dict[bytes, None] = {}
        self._file: StateFile | None = None
        self._path = state
        self._origins: dict[str, _Origin] = {}

    # -- one batch ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Read what an earlier run has saved, or without a file what all sessions have; raise SinkUnavailable."""
        if self._path is None:
            self._memory.restore(saved_nodes(), ())
        elif self._file is None:
            self._file = StateFile(self._path)
            self._memory.restore(self._file.nodes(), self._file.seen())

    def begin(self) -> None:
        """Discard what was parsed since the last `accept`."""
        self._memory.begin()

    def accept(self) -> None:
        """Make valid what was parsed since `begin`."""
        draft, dropped = self._memory.accept()
        self._changed.update(draft.nodes)
        self._seen.update(draft.seen)
        for name in dropped:
            self._changed.pop(name, None)
            self._dropped.add(name)
        self._dropped -= self._changed.keys()
        self.rebirths.note(draft.unknown)

    def save(self) -> None:
        """Write what was accepted; raise SinkUnavailable or SinkBroken."""
        if self._file is not None and (self._changed or self._dropped or self._seen):
            self._file.save(self._changed, self._dropped, self._seen)
        self._changed, self._dropped, self._seen = {}, set(), {}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def counts(self) -> Mapping[str, int]:
        """Return the counters by name."""
        return {**self._memory.counts, "rebirth_requests": self.rebirths.requests}

    @property
    def memory(self) -> NodeMemory:
        """The nodes."""
        return self._memory

    # -- one message -------------------------------------------------------------------------------

    def parse_message(self, message: Message, received_ms: int, *, retained: str | None = None) -> list[Metric]:
        """Return the metrics of a message, or none; raise Refusal, which may have some of them."""
        if not message.topic.startswith(NAMESPACE):
            return self._inner.parse_message(message, received_ms, retained=retained)
        origin = self._origins.get(message.topic) or self._learn_origin(message.topic)
        counts = self._memory.draft.counts
        if origin is None or message.retain:  # the specification forbids retained births, data and deaths
            counts["ignored"] += 1
            return []
        address = origin.address
        payload = self._decode(address, message.payload)
        if message.qos and address.kind is not MessageType.NDEATH and payload.timestamp:
            identity = message_identity(message)
            if self._memory.knows(identity):
                counts["redelivered"] += 1
                return []
            self._memory.draft.seen[identity] = None
        table = self._follow(address, payload)
        if table is None:
            return []
        return self._metrics(origin, payload, table, received_ms)

    def parse(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> Metric:
        """Return the metric of a message that is not Sparkplug; raise Refusal."""
        return self._inner.parse(topic, payload, received_ms, retained=retained)

    def parse_all(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> list[Metric]:
        """Return the metrics of a message outside the order of a node's messages, such as a dead letter.

        It changes nothing. Aliases have the meaning of the last birth.
        """
        if not topic.startswith(NAMESPACE):
            return self._inner.parse_all(topic, payload, received_ms, retained=retained)
        origin = self._learn_origin(topic)
        if origin is None or origin.address.kind in (MessageType.NDEATH, MessageType.DDEATH):
            return []
        address = origin.address
        self.check_size(payload)
        found = decode_payload(payload)
        known = self._memory.get(address.name).tables.get(address.device, _NOTHING)
        table = table_of(found.metrics) if address.kind in BIRTHS else known
        return self._metrics(origin, found, table, received_ms)

    def _learn_origin(self, topic: str) -> _Origin | None:
        address = parse_topic(topic)
        if address is None:
            return None
        tenant = self._tenants(address.name.group)
        if tenant is None:
            detail = f"group {address.name.group!r:.80} is not a UUID; give its tenant in bridge.sparkplug.groups"
            raise Refusal(MetricRefusal.TENANT_FORMAT, detail)
        if len(self._origins) >= TOPIC_CACHE_ENTRIES:
            self._origins.clear()
        origin = self._origins[topic] = _Origin(address, tenant, *agent_of(address))
        return origin

    def _decode(self, address: SparkplugTopic, payload: bytes) -> Any:
        try:
            self.check_size(payload)
            return decode_payload(payload)
        except Refusal as refusal:
            if address.kind not in (MessageType.NDATA, MessageType.DDATA):
                self._forget(address, f"its last {address.kind.value} was refused: {refusal.reason.value}")
            raise

    def _forget(self, address: SparkplugTopic, because: str) -> None:
        name = address.name
        self._memory.draft.nodes[name] = lost(self._memory.get(name), address.device)
        self._memory.draft.unknown[name] = because

    def _follow(self, address: SparkplugTopic, payload: Any) -> Table | None:
        """Follow the node's state; return the names of the message's metrics, or None for a death."""
        draft, name, kind = self._memory.draft, address.name, address.kind
        if kind is MessageType.NDEATH:
            self._end(address, payload)
            return None
        node = self._memory.get(name)
        if kind is not MessageType.NBIRTH:
            node, gap = advanced(node, payload.seq)
            if gap:
                draft.counts["gaps"] += 1
                draft.unknown[name] = gap
        if kind in BIRTHS:
            draft.counts["births"] += 1
            try:
                node = born(node, address, payload)
            except Refusal as refusal:
                self._forget(address, f"its last {kind.value} was refused: {refusal.reason.value}")
                raise
        elif kind is MessageType.DDEATH:
            draft.counts["deaths"] += 1
            node = lost(node, address.device)
        draft.nodes[name] = node
        return None if kind is MessageType.DDEATH else node.tables.get(address.device, _NOTHING)

    def _end(self, address: SparkplugTopic, payload: Any) -> None:
        """Follow the death of a node, unless it belongs to an earlier connection than the last birth."""
        draft = self._memory.draft
        node, bd_seq = self._memory.get(address.name), bd_seq_of(payload.metrics)
        if node.bd_seq is not None and bd_seq is not None and node.bd_seq != bd_seq:
            draft.counts["stale_deaths"] += 1
            return
        draft.counts["deaths"] += 1
        draft.nodes[address.name] = EdgeNode()

    # -- its metrics -------------------------------------------------------------------------------

    def _metrics(self, origin: _Origin, payload: Any, table: Table, received_ms: int) -> list[Metric]:
        """Return the metrics of a payload. If some are refused, raise the first Refusal with all others in it."""
        found: list[Metric] = []
        first: Refusal | None = None
        wrong = 0
        address, tenant, agent, tags = origin
        sent_ms = payload.timestamp or received_ms
        # with the topic, time and sequence number of a message and the position in it, a metric is stored once
        identity = f"spb:{address.kind.value}:{payload.timestamp}:{payload.seq}:" if payload.timestamp else None
        for position, metric in enumerate(payload.metrics):
            try:
                if metric.is_null:
                    self._memory.draft.counts["null_values"] += 1
                    continue
                known = _entry_of(metric, table)
                reading = read_value(metric, metric.datatype or known.datatype)
                own = _tags_of(tags, known, reading.text, metric.is_historical)
                found.append(
                    Metric(
                        *(tenant, agent, known.plain, reading.value),
                        _time_of(metric.timestamp or sent_ms),
                        f"{identity}{position}" if identity else None,
                        tags_text(own) if own else None,
                        received_ms,
                    )
                )
            except Refusal as refusal:
                wrong += 1
                first = first or refusal
                if isinstance(refusal, _NotBorn):
                    self._note_unborn(address.name)
        if first is not None:
            detail = f"{wrong} of {len(payload.metrics)} metrics refused; the first: {first.detail}"
            raise Refusal(first.reason, detail, found)
        return found

    def _note_unborn(self, name: NodeName) -> None:
        draft = self._memory.draft
        draft.counts["unknown_aliases"] += 1
        draft.unknown.setdefault(name, "no birth is valid")


def _entry_of(metric: Any, table: Table) -> BirthMetric:
    """Return the name and type of a metric; raise Refusal."""
    if not metric.name:
        known = table.by_alias.get(metric.alias)
        if known is None:
            raise _NotBorn(MetricRefusal.SPARKPLUG_ALIAS, f"alias {metric.alias} has no name: no birth is valid")
        return known
    name = decode_text(metric.name)
    known = table.by_name.get(name)
    if known is None and not metric.datatype:
        raise _NotBorn(MetricRefusal.SPARKPLUG_ALIAS, f"{name!r:.80} has no type: no birth is valid")
    return known or entry(name, metric.datatype)


def _tags_of(tags: dict[str, str], known: BirthMetric, text: str | None, historical: bool) -> dict[str, Any] | None:
    """Return the tags: names that the metric does not show exactly, its text, and whether it is historical."""
    if not tags and known.plain == known.name and text is None and not historical:
        return None
    own: dict[str, Any] = dict(tags)
    if known.plain != known.name:
        own["name"] = known.name
    if text is not None:
        own["text"] = text
    if historical:
        own["historical"] = True
    return own


def _time_of(milliseconds: int) -> int:
    if not FIRST_MS <= milliseconds < LAST_MS:
        raise Refusal(MetricRefusal.TIMESTAMP_RANGE, f"{milliseconds} ms is not between 1970 and 2199")
    return milliseconds
