"""A worker of a Redis stream that runs in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from mqttkit.bridge.worker.stream_worker import StreamWorker


@contextlib.contextmanager
def running_worker(worker: StreamWorker) -> Iterator[StreamWorker]:
    """Run it; at the end stop it, and check that it ended in order and that its books balance."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
    assert codes == [0]
    assert worker.books.balance().difference == 0
