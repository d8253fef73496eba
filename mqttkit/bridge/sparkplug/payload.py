"""The payload of Sparkplug B, org.eclipse.tahu.protobuf.Payload, with the fields that the bridge reads.

The bridge reads nested values (DataSet, Template) as bytes that it does not decode, so that a payload cannot nest.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from mqttkit.bridge.metric import MetricRefusal, Refusal
from mqttkit.errors import MissingPart

MAX_METRICS = 10_000
"""Maximum number of metrics in one payload."""

_BYTES, _BOOL, _UINT32, _UINT64, _FLOAT, _DOUBLE, _MESSAGE = 12, 8, 13, 4, 2, 1, 11
"""Types of descriptor.proto. Text is read as bytes, because the decoder accepts text that is not UTF-8."""
_PACKAGE = "org.eclipse.tahu.protobuf"
_PLAIN = (
    ("name", 1, _BYTES),
    ("alias", 2, _UINT64),
    ("timestamp", 3, _UINT64),
    ("datatype", 4, _UINT32),
    ("is_historical", 5, _BOOL),
    ("is_null", 7, _BOOL),
)
_VALUES = (
    ("int_value", 10, _UINT32),
    ("long_value", 11, _UINT64),
    ("float_value", 12, _FLOAT),
    ("double_value", 13, _DOUBLE),
    ("boolean_value", 14, _BOOL),
    ("string_value", 15, _BYTES),
    ("bytes_value", 16, _BYTES),
    ("dataset_value", 17, _BYTES),
    ("template_value", 18, _BYTES),
    ("extension_value", 19, _BYTES),
)


@cache
def payload_class() -> Any:
    """Return protobuf's class of a payload; raise MissingPart."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise MissingPart("protobuf is not installed", hint="pip install 'mqttkit[sparkplug]'") from error
    optional, repeated = 1, 3
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for name, number, kind in _PLAIN:
        metric.field.add(name=name, number=number, type=kind, label=optional)
    for name, number, kind in _VALUES:
        metric.field.add(name=name, number=number, type=kind, label=optional, oneof_index=0)
    payload.field.add(name="timestamp", number=1, type=_UINT64, label=optional)
    inner = f".{_PACKAGE}.Payload.Metric"
    payload.field.add(name="metrics", number=2, type=_MESSAGE, type_name=inner, label=repeated)
    payload.field.add(name="seq", number=3, type=_UINT64, label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


@cache
def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError

    found: type[Exception] = DecodeError
    return found


def decode_payload(payload: bytes) -> Any:
    """Return the decoded payload; raise Refusal."""
    try:
        found = payload_class().FromString(payload)
    except _decode_error() as error:
        raise Refusal(MetricRefusal.SPARKPLUG_PAYLOAD, f"not a payload of Sparkplug B: {error}") from None
    if len(found.metrics) > MAX_METRICS:
        detail = f"{len(found.metrics)} metrics, the limit is {MAX_METRICS}"
        raise Refusal(MetricRefusal.SPARKPLUG_PAYLOAD, detail)
    return found


def rebirth_request() -> bytes:
    """Return the payload of an NCMD that asks a node to publish its births again."""
    now = time.time_ns() // 1_000_000
    boolean = 11
    request = payload_class()(timestamp=now)
    request.metrics.add(name=b"Node Control/Rebirth", timestamp=now, datatype=boolean, boolean_value=True)
    encoded: bytes = request.SerializeToString()
    return encoded
