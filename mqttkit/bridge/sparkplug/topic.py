"""The topics of Sparkplug B (specification 3.0, chapter 4), and the names of its nodes and metrics. Pure."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import NamedTuple

from mqttkit.bridge.metric import MetricRefusal, Refusal

NAMESPACE = "spBv1.0/"
FILTER = "spBv1.0/#"
MAX_NAME = 128
_NOT_TEXT = re.compile("[\\0\\ud800-\\udfff]")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._:@-]")


class MessageType(enum.Enum):
    """What a message of a node says."""

    NBIRTH = "NBIRTH"
    NDATA = "NDATA"
    NDEATH = "NDEATH"
    DBIRTH = "DBIRTH"
    DDATA = "DDATA"
    DDEATH = "DDEATH"


BIRTHS = (MessageType.NBIRTH, MessageType.DBIRTH)
_KINDS = {kind.value: kind for kind in MessageType}
_IGNORED = ("NCMD", "DCMD")


class NodeName(NamedTuple):
    """Which edge node sent a message."""

    group: str
    node: str


class SparkplugTopic(NamedTuple):
    """A parsed topic."""

    name: NodeName
    kind: MessageType
    device: str
    """Empty in messages of the node itself."""


def parse_topic(topic: str) -> SparkplugTopic | None:
    """Return the parts of a topic; None for a command or STATE, which are not metrics. Raise Refusal."""
    if _NOT_TEXT.search(topic):
        raise Refusal(MetricRefusal.TOPIC_ENCODING, "the topic is not UTF-8, or contains NUL")
    _, *levels = topic.split("/")
    if levels[0] == "STATE" or (len(levels) > 1 and levels[1] in _IGNORED):
        return None
    kind = _KINDS.get(levels[1]) if len(levels) > 1 else None
    expected = 4 if kind is not None and kind.value.startswith("D") else 3
    if kind is None or len(levels) != expected or not all(levels):
        raise Refusal(
            MetricRefusal.TOPIC_SHAPE, f"not spBv1.0/GROUP/TYPE/NODE or spBv1.0/GROUP/TYPE/NODE/DEVICE: {topic!r:.80}"
        )
    return SparkplugTopic(NodeName(levels[0], levels[2]), kind, levels[3] if expected == 4 else "")


def plain_name(text: str) -> str:
    """Return a name of the characters that every sink takes: / becomes a dot, others become _."""
    name = _UNUSUAL.sub("_", text.replace("/", "."))
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def agent_of(address: SparkplugTopic) -> tuple[str, dict[str, str]]:
    """Return the agent of a node or device, and tags with the names that the agent does not show exactly."""
    node, device = address.name.node, address.device
    whole = f"{node}:{device}" if device else node
    agent = plain_name(whole)
    if agent == whole and ":" not in node + device:
        return agent, {}
    return agent, {"edge_node": node, "device": device} if device else {"edge_node": node}
