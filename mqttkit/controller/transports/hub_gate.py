"""The gate of the HTTP hub: the hub stores only messages that a subscriber would accept. It needs public keys only."""

from __future__ import annotations

import threading

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Kind, Topics
from mqttkit.controller.policies import PolicyBook
from mqttkit.controller.security.gate import SKEW_SECONDS, STATELESS, Codec, Gate
from mqttkit.controller.status_book import StatusBook
from mqttkit.controller.store import Novelty, Store


class HubGate:
    """Checks each posted message as a subscriber does, with its own memory. Any thread may call `check`."""

    def __init__(self, topics: Topics, codec: Codec, *, skew: float = SKEW_SECONDS) -> None:
        self._topics, self._codec, self._skew = topics, codec, skew
        self._store = Store(max_ids=100_000)
        self._gate = Gate(codec, self._store, skew=skew)
        self._policies = PolicyBook(self._store)
        self._statuses = StatusBook(topics, codec, skew=skew)
        self._lock = threading.Lock()

    def check_reader(self, token: str, path: str) -> None:
        """Raise MessageRefused if the token of a GET request is not signed with an accepted key."""
        self._codec.check_request(token, path, skew=self._skew)

    def check(self, topic: str, data: bytes) -> None:
        """Raise MessageRefused for a message that a subscriber would refuse: forged, replayed, or older state."""
        with self._lock:
            place = self._topics.place(topic)
            opened, novelty = self._gate.open(place, data, dup=False)
            if place.kind is Kind.STATUS:
                if self._statuses.note(topic, data) is None:
                    raise MessageRefused(MessageRefusal.STALE, "the heartbeat is not newer than the last one")
                return
            if place.kind is Kind.POLICY:
                policy, novelty = self._policies.judge(place.region, opened)
                if novelty is Novelty.NEW:
                    self._policies.put(policy)
            else:
                if place.kind in STATELESS:
                    novelty = self._gate.judge_once(opened, dup=False)
                self._gate.admit(opened, novelty)
            self._store.commit()
