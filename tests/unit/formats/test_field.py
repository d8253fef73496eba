"""One value out of a JSON payload."""

from __future__ import annotations

import pytest

from mqttkit.formats.field import NoField, field_formatter, field_value
from mqttkit.messages import Message


def test_a_path_leads_through_objects_and_lists() -> None:
    assert field_value(b'{"a":{"b":[1,{"c":"x"}]}}', ["a", "b", "1", "c"]) == "x"


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", b"[" * 100_000, b'{"b":1}', b"[1]", b'"a"'])
def test_a_payload_without_the_value_raises(payload: bytes) -> None:
    with pytest.raises(NoField):
        field_value(payload, ["a"])


def test_text_has_no_quotes_and_the_rest_is_json() -> None:
    missing: list[str] = []
    write = field_formatter("v", b"\n", verbose=True, on_missing=missing.append)
    payloads = [b'{"v":"t"}', b'{"v":[1, 2.50]}', b'{"v":null}', b"{}", b'{"v":"\\ud800"}']
    shown = write([Message("a/b", payload) for payload in payloads], 0)
    assert shown == b"a/b t\na/b [1,2.5]\na/b null\na/b \\ud800\n"
    assert len(missing) == 1
    assert "'v' is missing" in missing[0]
