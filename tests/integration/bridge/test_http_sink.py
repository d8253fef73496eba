"""The HTTP sink."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkRefused, SinkUnavailable
from tests.support.http_receiver import http_receiver
from tests.support.sinks import metric


def test_http_batch_is_tried_again_under_one_key(tmp_path: Path) -> None:
    """5xx is unavailable and 4xx about the data refuses; each try bears the batch's Idempotency-Key."""
    with http_receiver() as receiver:
        options = SinkOptions(token="secret-token", dead_letters=str(tmp_path / "ledger.db"))
        with contextlib.closing(open_sink(receiver.url, options)) as sink:
            sink.open()
            sink.probe()
            receiver.answers = [422, 401, 503]
            batch = MetricBatch([metric(1, "x")])
            for error in (SinkUnavailable, SinkUnavailable, SinkRefused):
                with pytest.raises(error) as caught:
                    sink.commit(batch)
                assert "secret-token" not in str(caught.value)
            assert sink.commit(batch) == Committed(1, 0)
            assert sink.commit(MetricBatch([metric(2, "x")])) == Committed(0, 1)
        ((headers, body),) = receiver.requests
        assert headers["Idempotency-Key"] == batch.id
        assert headers["Authorization"] == "Bearer secret-token"
        assert body[0]["tags"] == {"unit": "°C"}
