"""Start the live view: Textual, logs, signals."""

from __future__ import annotations

import logging

from mqttkit.errors import MissingPart
from mqttkit.live.actions import RetainedMessages
from mqttkit.live.feed import Feed
from mqttkit.live.garbage import search_rarely
from mqttkit.live.rows import Order


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
        search_rarely()
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
