"""The page as a whole: a client, its topics, the viewers and the HTTP server."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from mqttkit.live.actions import connection_words
from mqttkit.live.feed import Feed
from mqttkit.live.tree import TopicTree
from mqttkit.settings import Settings
from mqttkit.web.access import PageAccess
from mqttkit.web.bridge_status import BridgePages
from mqttkit.web.detail import topic_detail
from mqttkit.web.hub import Hub
from mqttkit.web.overview import Overview, bridge_addresses
from mqttkit.web.server import PageServer

KEPT_VALUES = 30
"""Values kept of each topic while memory suffices: plots begin with them."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What a user chooses for the page."""

    access: PageAccess = field(default_factory=PageAccess)
    """Where it is served, and who may read it."""
    max_viewers: int = 8
    """Pages that may be open at the same time."""
    max_bytes: int = 64 * 1024 * 1024
    """Memory for topics and values."""
    bridges: Sequence[tuple[str, int]] = ()
    """Host and port of bridges' health pages."""


class LivePage:
    """Serves the page while its context is open.

    Entering raises BrokerUnreachable, ConnectionRefused, SubscriptionDenied, or MqttkitError if it cannot listen.
    """

    def __init__(self, settings: Settings, topic_filters: Sequence[str], options: PageOptions, *, qos: int = 0) -> None:
        """Raise TopicError if a filter is malformed."""
        self.tree = TopicTree(max_bytes=options.max_bytes, values=KEPT_VALUES)
        self.hub = Hub(self.tree, max_viewers=options.max_viewers, each_second=self._read)
        self.feed = Feed(settings.mqtt, topic_filters, self.tree, qos=qos, on_messages=self.hub.take)
        self._pages = BridgePages(bridge_addresses(settings, options.bridges))
        self._overview = Overview(settings, self.feed, self._pages)
        self._connection = connection_words(settings.mqtt)
        self._access = options.access
        self._stack = contextlib.ExitStack()
        self.address = ""
        """What to open in a browser; it may contain the token."""

    def __enter__(self) -> LivePage:
        with contextlib.ExitStack() as stack:
            server = PageServer(self._access, self.hub, self._detail)
            stack.callback(server.server_close)
            stack.enter_context(self.feed)
            stack.enter_context(self._pages)
            stack.enter_context(self.hub)
            stack.enter_context(server)
            self.address = server.address
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _read(self) -> dict[str, object]:
        return self._overview.read()

    def _detail(self, number: int, shape: str) -> dict[str, object] | None:
        return topic_detail(self.hub, self.tree, self._connection, number, shape)
