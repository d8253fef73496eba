"""Metrics from payloads of any form: a JMESPath expression in the settings turns a payload into metrics.

Payloads are decoded by Python and not by jq: jq rounds integers above 2^53 and turns 1e999 into a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mqttkit.bridge.metric import PARTS, Metric, MetricBody, MetricParser, MetricRefusal, Refusal, check_json
from mqttkit.errors import MissingPart, UsageError
from mqttkit.settings import BridgeSettings

MAX_METRICS = 1_000
"""Maximum number of metrics in one message."""
_KEYS = frozenset({"name", "value", "timestamp", "dedupe_id", "tags"})
_METRIC_NAME = re.compile(PARTS["metric_name"])


def open_parser(
    bridge: BridgeSettings, state: Path | None = None, publish: Callable[[str, bytes], object] | None = None
) -> MetricParser:
    """Return the parser that the settings ask for; raise UsageError or MissingPart.

    A parser with a memory keeps it in the file `state`, which `MetricParser.open` opens. It may `publish` requests.
    """
    if bridge.mapping is None:
        found = MetricParser(bridge.topic, payload_limit=bridge.payload_limit)
    else:
        found = MappedParser(bridge.topic, payload_limit=bridge.payload_limit, expression=bridge.mapping)
    if not bridge.sparkplug.enabled:
        return found
    from mqttkit.bridge.sparkplug.parser import SparkplugParser

    return SparkplugParser(found, bridge, state, publish)


class MappedParser(MetricParser):
    """Parse messages with an expression, whose result is a metric or a list of metrics."""

    def __init__(self, template: str, *, payload_limit: int, expression: str) -> None:
        super().__init__(template, payload_limit=payload_limit)
        try:
            import jmespath
        except ImportError as error:
            raise MissingPart("jmespath is not installed", hint="pip install 'mqttkit[mapping]'") from error
        try:
            self._expression = jmespath.compile(expression)
        except jmespath.exceptions.JMESPathError as error:
            text = " ".join(str(error).split())
            raise UsageError(f"the mapping is not a JMESPath expression: {text}") from error
        except RecursionError as error:
            raise UsageError("the mapping is nested too deep") from error
        self._options = jmespath.Options(custom_functions=_functions())

    def parse(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> Metric:
        """Return the only metric of a message; raise Refusal."""
        found = self.parse_all(topic, payload, received_ms, retained=retained)
        if len(found) != 1:
            raise Refusal(MetricRefusal.MAPPING, f"{len(found)} metrics")
        return found[0]

    def parse_all(self, topic: str, payload: bytes, received_ms: int, *, retained: str | None = None) -> list[Metric]:
        """Return the metrics that the expression makes from the payload, or none; raise Refusal."""
        names = self.require_names(topic)
        self.check_size(payload)
        if not payload:
            raise Refusal(MetricRefusal.PAYLOAD_EMPTY)
        content = check_json(payload)
        try:
            result = self._expression.search(content, self._options)
        except Exception as error:  # noqa: BLE001 - jmespath lets errors of Python through, as of floor('inf')
            raise Refusal(MetricRefusal.MAPPING, " ".join(str(error).split())) from None
        items = result if isinstance(result, list) else [] if result is None else [result]
        if len(items) > MAX_METRICS:
            raise Refusal(MetricRefusal.MAPPING, f"{len(items)} metrics, the limit is {MAX_METRICS}")
        metrics = [self._mapped(item, names, received_ms, retained) for item in items]
        _check_distinct(metrics)
        return metrics

    def _mapped(self, item: Any, names: tuple[str, str, str], received_ms: int, retained: str | None) -> Metric:
        if not isinstance(item, dict) or not item.keys() <= _KEYS:
            raise Refusal(
                MetricRefusal.MAPPING, f"expected an object with {', '.join(sorted(_KEYS))}; got {item!r:.80}"
            )
        tenant, agent, metric = names
        name = item.get("name", metric)
        if not isinstance(name, str) or _METRIC_NAME.fullmatch(name) is None:
            raise Refusal(MetricRefusal.MAPPING, f"the name {name!r:.80} is not 1 to 128 of A-Z a-z 0-9 . _ : @ -")
        value = item.get("value")
        check_value(value)
        _check_finite(item)
        try:
            body = msgspec.convert({key: part for key, part in item.items() if key != "name"}, MetricBody)
            return self._metric((tenant, agent, name), body, received_ms, retained)
        except ValueError as error:
            raise Refusal(MetricRefusal.MAPPING, str(error)) from None


def check_value(value: Any) -> None:
    """Raise Refusal unless the value is a finite number that a double holds exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(MetricRefusal.VALUE_TYPE, f"value is {type(value).__name__}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refusal(MetricRefusal.VALUE_NOT_FINITE, "value is out of the range of a double")
    if isinstance(value, int) and int(number) != value:
        raise Refusal(MetricRefusal.VALUE_PRECISION, f"a double cannot hold {value}")


def _check_distinct(metrics: list[Metric]) -> None:
    """Raise Refusal if a sink would take two metrics for one: equal names and dedupe_ids; retained ones share an id."""
    keys = [(metric.metric_name, metric.dedupe_id) for metric in metrics if metric.dedupe_id is not None]
    if len(set(keys)) < len(keys):
        name = next(name for name, dedupe_id in keys if keys.count((name, dedupe_id)) > 1)
        raise Refusal(MetricRefusal.MAPPING, f"two metrics have the name {name!r} and need different dedupe_ids")


def _check_finite(item: dict[str, Any]) -> None:
    """Raise Refusal for a time stamp or tag that JSON cannot express, such as 1e999."""
    tags = item.get("tags")
    for part in (item.get("timestamp"), *(tags.values() if isinstance(tags, dict) else ())):
        if isinstance(part, float) and not math.isfinite(part):
            raise Refusal(MetricRefusal.MAPPING, "a time stamp or tag is out of the range of a double")


def _functions() -> Any:
    """Return JMESPath's functions with `items`, which turns an object into a list of {key, value}."""
    from jmespath.functions import Functions, signature

    class WithItems(Functions):  # type: ignore[misc]
        @signature({"types": ["object"]})  # type: ignore[untyped-decorator]
        def _func_items(self, given: dict[str, Any]) -> list[dict[str, Any]]:
            return [{"key": key, "value": value} for key, value in given.items()]

    return WithItems()
