"""Start the live view: Textual, logs, signals."""

from __future__ import annotations

import gc
import logging

from mqttkit.errors import MissingPart
from mqttkit.live.actions import RetainedMessages
from mqttkit.live.feed import Feed
from mqttkit.live.rows import Order

GARBAGE_THRESHOLD = 20_000
"""New objects before Python looks for cycles. A busy broker makes 100,000 messages a second, and none is in a cycle."""


def run(feed: Feed, order: Order) -> None:
    """Connect, then show the view until the user leaves it."""
    try:
        from mqttkit.cli.top.app import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("textual"):
            raise
        raise MissingPart("the live view needs the package textual", hint="pip install 'mqttkit[tui]'") from error

    with feed, RetainedMessages(feed.settings) as retained:
        app = TopApp(feed, retained, order)
        logger = logging.getLogger("mqttkit")
        before = logger.handlers[:]
        logger.handlers[:] = [_StatusHandler(app)]  # a log line on stderr would land in the middle of the view
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD)
        try:
            app.run()
        finally:
            logger.handlers[:] = before


class _StatusHandler(logging.Handler):
    """Shows log records in the view's last line."""

    def __init__(self, app: object) -> None:
        super().__init__()
        self._app = app

    def emit(self, record: logging.LogRecord) -> None:
        from mqttkit.cli.top.app import TopApp

        assert isinstance(self._app, TopApp)
        self._app.news = record.getMessage()
