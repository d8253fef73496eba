"""One connection through the proxy:

bytes in, bytes with faults out. No sockets: the server passes data and takes effects.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqttkit.errors import NotMqtt
from mqttkit.proxy.framing import MAX_HELD, TYPES, Packet, connect_version, describe, packets
from mqttkit.proxy.rules import FaultRule


@dataclass(frozen=True)
class Send:
    """Send bytes to the other side after `delay` seconds, in order."""

    data: bytes
    delay: float = 0.0


@dataclass(frozen=True)
class Reply:
    """Send bytes back to the side that they came from."""

    data: bytes


@dataclass(frozen=True)
class Cut:
    """End the connection."""

    reason: str


Effect = Send | Reply | Cut
Log = Callable[[bool, str, str], None]
"""Gets: from the client?, the packet as text, what was done to it."""


class Link:
    """The state of one connection. One thread."""

    def __init__(self, rules: Sequence[FaultRule], chance: random.Random, log: Log | None = None) -> None:
        self._rules = rules
        self._chance = chance
        self._log = log
        self._kinds = {rule.kind for rule in rules}
        self._held = {True: b"", False: b""}
        self.version = 4
        """Protocol version: that of the CONNECT."""
        self.packets = 0
        """Packets seen."""

    def feed(self, data: bytes, *, from_client: bool) -> list[Effect]:
        """Take bytes of one side; return what to do."""
        data = self._held[from_client] + data
        effects: list[Effect] = []
        done = sent = 0
        try:
            for packet in packets(data):
                self.packets += 1
                done = packet.end
                if packet.kind == TYPES["CONNECT"]:
                    self.version = connect_version(data, packet)
                if packet.kind not in self._kinds and self._log is None:
                    continue
                faults = self._faults(data, packet, from_client)
                if faults is None:
                    continue
                if packet.start > sent:
                    effects.append(Send(data[sent : packet.start]))
                sent = packet.end
                effects += faults
                if faults and isinstance(faults[-1], Cut):
                    return effects
        except NotMqtt as error:
            return [*effects, Cut(str(error))]
        if done > sent:
            effects.append(Send(data[sent:done]))
        self._held[from_client] = data[done:]
        if len(self._held[from_client]) > MAX_HELD:
            effects.append(Cut("a packet is larger than MQTT allows"))
        return effects

    def _faults(self, data: bytes, packet: Packet, from_client: bool) -> list[Effect] | None:
        """Return what happens to a packet in place of being sent, or None if nothing does."""
        rule = next((each for each in self._rules if each.applies(packet.kind, from_client, self._chance)), None)
        if self._log is not None:
            text = describe(data, packet, version=self.version)
            self._log(from_client, text, "" if rule is None else rule.action)
        if rule is None:
            return None
        whole = data[packet.start : packet.end]
        if rule.action == "drop":
            return []
        if rule.action == "duplicate":
            return [Send(whole + whole)]
        if rule.action == "delay":
            return [Send(whole, rule.delay(self._chance))]
        if rule.action == "cut":
            return [Send(whole[: max(len(whole) // 2, 1)]), Cut(f"cut in the middle of a {packet.name}")]
        connack = bytes((0x20, 3, 0, rule.code, 0)) if self.version == 5 else bytes((0x20, 2, 0, rule.code))
        return [Reply(connack), Cut(f"answered CONNECT with 0x{rule.code:02x}")]
