"""Parse a message's topic and payload into a metric, or refuse it with a reason. Pure."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec

from mqttkit.bridge.parser_memory import ParserMemory
from mqttkit.errors import TopicError
from mqttkit.messages import Message
from mqttkit.topics import check_template

PLACEHOLDERS = ("tenant_id", "agent_id", "metric_name")
"""The placeholders of a topic template. Each is a whole level and appears once."""

TOPIC_CACHE_ENTRIES = 10_000
"""Parsed topics that the cache holds; when it is full, it is emptied."""

SHOWN = 40
"""Characters of a name or text that a refusal quotes."""

MAX_TAGS = 64
"""Maximum number of tags in one metric."""

_EXACT = 2.0**53  # a double holds every smaller integer exactly

FIRST_MS = 0
LAST_MS = 7_258_118_400_000  # 2200-01-01: a later time stamp has the wrong unit
_SECONDS_BELOW = 100_000_000_000  # in seconds the year 5138, in milliseconds March 1973


class MetricRefusal(str, enum.Enum):
    """Why a message is not a metric."""

    TOPIC_ENCODING = "topic_encoding"
    """The topic is not UTF-8 or contains NUL (MQTT 5, 1.5.4)."""
    TOPIC_SHAPE = "topic_shape"
    """The topic does not match the template, or a part contains a character that is not allowed."""
    TENANT_FORMAT = "tenant_format"
    """The tenant is not a UUID."""
    TENANT_UNKNOWN = "tenant_unknown"
    """The registry does not know the tenant."""
    UNROUTED = "unrouted"
    """No output stores metrics of this tenant and name."""
    PAYLOAD_EMPTY = "payload_empty"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    JSON_ENCODING = "json_encoding"
    """The payload is not UTF-8."""
    JSON_SYNTAX = "json_syntax"
    JSON_DEPTH = "json_depth"
    """Nested deeper than the decoder allows."""
    JSON_SHAPE = "json_shape"
    """Not an object."""
    DUPLICATE_KEY = "duplicate_key"
    NUL_CHARACTER = "nul_character"
    """A string contains U+0000, which some stores cannot keep."""
    MAPPING = "mapping"
    """The mapping failed, or returned something else than metrics."""
    SPARKPLUG_PAYLOAD = "sparkplug_payload"
    """Not a payload of Sparkplug B."""
    SPARKPLUG_ALIAS = "sparkplug_alias"
    """No valid birth says which metric an alias means."""
    SPARKPLUG_TYPE = "sparkplug_type"
    """A DataSet, Template, array or bytes, or a value that its type cannot have."""
    VALUE_MISSING = "value_missing"
    VALUE_TYPE = "value_type"
    VALUE_PRECISION = "value_precision"
    """An integer that a double cannot hold exactly."""
    VALUE_NOT_FINITE = "value_not_finite"
    """NaN, an infinity, or a number beyond a double's range."""
    TIMESTAMP_FORMAT = "timestamp_format"
    TIMESTAMP_RANGE = "timestamp_range"
    """Before 1970 or after 2199."""
    DEDUPE_ID = "dedupe_id"
    """Not a string of 1 to 128 printable characters."""
    TAGS = "tags"
    """Not an object of at most 64 strings, numbers, booleans or nulls."""
    HANDLER_ERROR = "handler_error"
    """An unexpected exception."""
    SINK_REFUSED = "sink_refused"
    """The sink accepts the rest of the batch but not this metric."""


class Refusal(Exception):
    """A message is not a metric; `detail` says what was found, in one line."""

    def __init__(self, reason: MetricRefusal, detail: str = "", metrics: Sequence[Metric] = ()) -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail
        self.metrics = list(metrics)
        """Valid metrics of the same message, which are stored in addition to its dead letter."""


class Metric(NamedTuple):
    """One validated reading. The fields are the columns of every sink, in this order."""

    tenant_id: str
    """UUID in lower case."""
    agent_id: str
    metric_name: str
    value: float
    """Finite."""
    timestamp_ms: int
    """When it was measured: milliseconds since 1970 in UTC. The time of receipt if the payload has none."""
    dedupe_id: str | None
    """With tenant and agent the key of idempotency; without one every delivery is stored."""
    tags: str | None
    """JSON object, compact."""
    received_ms: int
    """When the bridge received it, milliseconds since 1970 in UTC."""


_Unset = msgspec.UnsetType
_Scalar = str | int | float | bool | None


class MetricBody(msgspec.Struct, gc=False):
    """A metric's payload."""

    value: float
    timestamp: str | int | float | _Unset | None = msgspec.UNSET
    dedupe_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | _Unset | None = msgspec.UNSET
    tags: dict[str, _Scalar] | _Unset | None = msgspec.UNSET


_decode: Callable[[bytes], MetricBody] = msgspec.json.Decoder(MetricBody).decode
_encode = msgspec.json.Encoder().encode

PARTS = {
    "tenant_id": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "agent_id": r"[A-Za-z0-9._:@-]{1,128}",
    "metric_name": r"[A-Za-z0-9._:@-]{1,128}",
}


def check_metric_template(template: str) -> str:
    """Return `template` if it has each of tenant_id, agent_id and metric_name once, as whole levels."""
    check_template(template, PLACEHOLDERS)
    levels = template.split("/")
    for name in PLACEHOLDERS:
        if levels.count("{" + name + "}") != 1:
            raise TopicError(f"topic template {template!r} must contain {{{name}}} once, as a whole level")
    if sum("{" in level for level in levels) != len(PLACEHOLDERS):
        raise TopicError(f"topic template {template!r}: a placeholder must be a whole level")
    return template


def template_filter(template: str) -> str:
    """Return the topic filter that covers the template, including topics that do not match it."""
    fixed = template.split("{", 1)[0]
    return f"{fixed}#"


def reserved_prefix(template: str) -> str:
    """Return the prefix of the topics that mqttkit uses itself for canaries and proofs. They are never metrics."""
    return template.split("{", 1)[0] + "_mqttkit/"


class MetricParser(ParserMemory):
    """Parse messages of one topic template. Use it from one thread at a time."""

    def __init__(self, template: str, *, payload_limit: int) -> None:
        """`payload_limit` is in bytes."""
        check_metric_template(template)
        levels = [level.strip("{}") if "{" in level else None for level in template.split("/")]
        fixed = template.split("/")
        strict = (f"({PARTS[n]})" if n else re.escape(f) for n, f in zip(levels, fixed, strict=True))
        loose = ("([^/]*)" if n else re.escape(f) for n, f in zip(levels, fixed, strict=True))
        self._topic = re.compile("/".join(strict))
        self._loose = re.compile("/".join(loose), re.DOTALL)
        self._order = tuple([n for n in levels if n].index(name) for name in PLACEHOLDERS)
        self._names: dict[str, tuple[str, str, str]] = {}
        self._payload_limit = payload_limit
        self.reserved = reserved_prefix(template)
        """Prefix of mqttkit's own topics, whose messages are not to be parsed."""
        self.template = template

    def parse(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> Metric:
        """Return the metric; raise Refusal.

        `retained` is the dedupe_id to use for a retained message whose payload has none.
        """
        names = self._names.get(topic) or self._learn(topic)
        self.check_size(payload)
        try:
            body = _decode(payload)
        except (ValueError, RecursionError) as error:
            explain(payload, error)
        if not -_EXACT < body.value < _EXACT:
            _check_exact(payload)
        if payload.count(b":") != _colons(body) or b"\\u003" in payload:
            check_json(payload)
        return self._metric(names, body, received_ms, retained)

    def parse_all(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> list[Metric]:
        """Return the metrics of a message; here, one. See `parse`."""
        return [self.parse(topic, payload, received_ms, retained=retained)]

    def parse_message(self, message: Message, received_ms: int, *, retained: str | None = None) -> list[Metric]:
        """Return the metrics of a message in its turn; see `parse`. A parser with a memory may change it."""
        return self.parse_all(message.topic, message.payload, received_ms, retained=retained)

    def require_names(self, topic: str) -> tuple[str, str, str]:
        """Return tenant, agent and metric name of a topic; raise Refusal."""
        return self._names.get(topic) or self._learn(topic)

    def check_size(self, payload: bytes) -> None:
        """Raise Refusal for a payload that is too long."""
        if len(payload) > self._payload_limit:
            raise Refusal(MetricRefusal.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes, the limit is {self._payload_limit}")

    def _metric(self, names: tuple[str, str, str], body: MetricBody, received_ms: int, retained: str | None) -> Metric:
        tags = body.tags
        dedupe_id = body.dedupe_id or None
        if dedupe_id is None:
            dedupe_id = retained
        elif not dedupe_id.isprintable():
            raise Refusal(MetricRefusal.DEDUPE_ID, "contains a character that is not printable")
        given = body.timestamp
        timestamp_ms = received_ms if given is None or given is msgspec.UNSET else parse_timestamp(given)
        text = tags_text(tags) if tags else None
        return Metric(*names, body.value, timestamp_ms, dedupe_id, text, received_ms)

    def names(self, topic: str) -> tuple[str, str, str] | None:
        """Return tenant, agent and metric name of a topic; None if it does not match the template."""
        try:
            return self.require_names(topic)
        except Refusal:
            return None

    def _learn(self, topic: str) -> tuple[str, str, str]:
        found = self._topic.fullmatch(topic)
        if found is None:
            self._explain_topic(topic)
        groups = found.groups()
        tenant, agent, metric = (groups[index] for index in self._order)
        if len(self._names) >= TOPIC_CACHE_ENTRIES:
            self._names.clear()
        names = self._names[topic] = (tenant.lower(), agent, metric)
        return names

    def _explain_topic(self, topic: str) -> NoReturn:
        if "\0" in topic or any("\ud800" <= character <= "\udfff" for character in topic):
            raise Refusal(MetricRefusal.TOPIC_ENCODING, "the topic is not UTF-8, or contains NUL")
        found = self._loose.fullmatch(topic)
        if found is None:
            raise Refusal(MetricRefusal.TOPIC_SHAPE, f"the topic does not match {self.template}")
        tenant, agent, metric = (found.groups()[index] for index in self._order)
        if re.fullmatch(PARTS["tenant_id"], tenant) is None:
            raise Refusal(MetricRefusal.TENANT_FORMAT, f"{_short(tenant)} is not a UUID")
        wrong = "agent_id" if re.fullmatch(PARTS["agent_id"], agent) is None else "metric_name"
        what = agent if wrong == "agent_id" else metric
        raise Refusal(MetricRefusal.TOPIC_SHAPE, f"{wrong} {_short(what)} is not 1 to 128 of A-Z a-z 0-9 . _ : @ -")


def parse_timestamp(given: str | int | float) -> int:
    """Convert ISO 8601 text, Unix seconds or milliseconds to UTC milliseconds; raise Refusal.

    Text without an offset is UTC. Numbers below 100,000,000,000 are seconds.
    """
    if isinstance(given, str):
        milliseconds = _parse_iso(given)
    else:
        milliseconds = round(given * 1000) if -_SECONDS_BELOW < given < _SECONDS_BELOW else round(given)
    if not FIRST_MS <= milliseconds < LAST_MS:
        raise Refusal(MetricRefusal.TIMESTAMP_RANGE, f"{given!r} is not between 1970 and 2199")
    return milliseconds


def _parse_iso(text: str) -> int:
    try:
        moment = msgspec.convert(text, datetime, strict=False)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise Refusal(MetricRefusal.TIMESTAMP_FORMAT, f"{_short(text)} is not ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def _colons(body: MetricBody) -> int:
    """Return how many colons the payload has if it has no duplicate key, no unknown key and no escaped colon."""
    count = 1
    if body.timestamp is not msgspec.UNSET:
        count += 1 + (body.timestamp.count(":") if isinstance(body.timestamp, str) else 0)
    if body.dedupe_id is not msgspec.UNSET:
        count += 1 + (body.dedupe_id.count(":") if body.dedupe_id else 0)
    if body.tags is not msgspec.UNSET:
        count += 1
        for name, value in (body.tags or {}).items():
            count += 1 + name.count(":") + (value.count(":") if isinstance(value, str) else 0)
    return count


def tags_text(tags: dict[str, _Scalar]) -> str:
    """Return tags as compact JSON; raise Refusal."""
    if len(tags) > MAX_TAGS:
        raise Refusal(MetricRefusal.TAGS, f"{len(tags)} tags, the limit is {MAX_TAGS}")
    text = _encode(tags).decode()
    if "\\u0000" in text and any("\0" in str(part) for pair in tags.items() for part in pair):
        raise Refusal(MetricRefusal.NUL_CHARACTER, "a tag contains U+0000")
    return text


def _short(text: str) -> str:
    """Quote text from a message, cut to a length that fits in one line."""
    return repr(text[:SHOWN])


class _DuplicateKey(ValueError):
    pass


class _NotFinite(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKey(f"{_short(twice)} appears twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _NotFinite(f"{name} is not a JSON number")


def check_json(payload: bytes) -> Any:
    """Decode with the slower decoder, which reports duplicate keys; raise Refusal."""
    try:
        return json.loads(payload, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except _DuplicateKey as error:
        raise Refusal(MetricRefusal.DUPLICATE_KEY, str(error)) from None
    except _NotFinite as error:
        raise Refusal(MetricRefusal.VALUE_NOT_FINITE, str(error)) from None
    except RecursionError:
        raise Refusal(MetricRefusal.JSON_DEPTH, "nested too deep") from None
    except UnicodeDecodeError as error:
        raise Refusal(MetricRefusal.JSON_ENCODING, f"byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise Refusal(MetricRefusal.JSON_SYNTAX, str(error)) from None


def _check_exact(payload: bytes) -> None:
    """Refuse an integer as value that a double would round."""
    value = check_json(payload)["value"]
    if isinstance(value, int) and int(float(value)) != value:
        detail = f"a double cannot hold {_short(str(value))}; send it as a string tag"
        raise Refusal(MetricRefusal.VALUE_PRECISION, detail)


_FIELD_REASONS = {
    "$.timestamp": MetricRefusal.TIMESTAMP_FORMAT,
    "$.dedupe_id": MetricRefusal.DEDUPE_ID,
    "$.tags": MetricRefusal.TAGS,
}


def explain(payload: bytes, error: Exception) -> NoReturn:
    """Raise the Refusal for a payload that the fast decoder rejected with `error`."""
    if not payload:
        raise Refusal(MetricRefusal.PAYLOAD_EMPTY)
    body = check_json(payload)
    if not isinstance(body, dict):
        raise Refusal(MetricRefusal.JSON_SHAPE, f"expected a JSON object, not {type(body).__name__}")
    detail = str(error)
    for path, reason in _FIELD_REASONS.items():
        if path in detail:
            raise Refusal(reason, detail)
    if "value" not in body:
        raise Refusal(MetricRefusal.VALUE_MISSING, "no key 'value'")
    if isinstance(body["value"], bool) or not isinstance(body["value"], (int, float)):
        raise Refusal(MetricRefusal.VALUE_TYPE, f"value is {type(body['value']).__name__}, expected a number")
    if "out of range" in detail:
        raise Refusal(MetricRefusal.VALUE_NOT_FINITE, "value is out of the range of a double")
    raise Refusal(MetricRefusal.JSON_SYNTAX, detail)
