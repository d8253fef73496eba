"""The status of controllers, from their heartbeats: verified if there is a key ring."""

from __future__ import annotations

from mqttkit.controller.configuration import open_codec
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.status_book import StatusBook
from mqttkit.errors import MqttkitError
from mqttkit.formats.visible import visible
from mqttkit.settings import ControllerSettings
from mqttkit.web.branches import BranchMessage

MAX_CONTROLLERS = 1_000
SHOWN = ("controller", "role", "region", "status", "last_heartbeat", "transport", "reports", "refused")


class Controllers:
    """The controllers whose heartbeats arrive. Use it from one thread."""

    def __init__(self, settings: ControllerSettings) -> None:
        topics = Topics(settings.base)
        self.prefix = topics.status_filter().removesuffix("/+")
        self._book: StatusBook | None = None
        self.problem = ""
        """Why heartbeats cannot be verified; empty if they can."""
        self._unverified: dict[str, float] = {}
        try:
            self._book = StatusBook(topics, open_codec(settings, signs=False))
        except MqttkitError as error:
            self.problem = str(error)

    def add(self, values: list[BranchMessage]) -> None:
        """Take heartbeats."""
        for value in values:
            name = value.topic.removeprefix(f"{self.prefix}/")
            if self._book is not None:
                self._book.note(value.topic, value.payload)
            elif name in self._unverified or len(self._unverified) < MAX_CONTROLLERS:
                self._unverified[name] = value.when

    def state(self, now: float) -> dict[str, object]:
        """Return a row for each controller; without a key ring only its name and the age of its last message."""
        if self._book is not None:
            rows = [{name: _shown(row[name]) for name in SHOWN} for row in self._book.rows()[:MAX_CONTROLLERS]]
            return {"rows": rows, "problem": ""}
        unverified = [
            {"controller": visible(name[:100]), "status": "not verified", "last_heartbeat": round(now - when, 1)}
            for name, when in sorted(self._unverified.items())
        ]
        return {"rows": unverified, "problem": self.problem if unverified else ""}


def _shown(value: object) -> object:
    return visible(value[:100]) if isinstance(value, str) else value
