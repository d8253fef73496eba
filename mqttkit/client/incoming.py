"""What becomes of the packets that the splitter leaves to paho: checks first, then paho's own code or ours.

A packet that MQTT does not allow raises UnexpectedPacket, which ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.client.packets import properties as convert
from mqttkit.client.packets.reason_codes import DENIED, MAX_CONNACK_311, MAX_QOS, is_known, known_failure
from mqttkit.client.receiving.batch_reader import BatchReader
from mqttkit.client.receiving.unexpected import (
    UnexpectedPacket,
    check_order,
    check_properties,
    packet_identifier,
    suback,
)
from mqttkit.client.sending.outbox import MAX_FAST_MID, Outbox
from mqttkit.client.sending.send_limits import broker_limits, clamp_packet_size
from mqttkit.messages import Message
from mqttkit.settings import LimitSettings

SUCCESS = MQTTErrorCode.MQTT_ERR_SUCCESS


class IncomingPackets(paho.Client):
    """The handlers of received packets, one for each type that paho does not handle as we need."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.outbox = Outbox(LimitSettings())
        """Publishes that wait."""
        self.on_batch: Callable[[list[Message]], None] | None = None
        """Gets the messages of each read, in the network thread; if it is None, paho's `on_message` does."""
        self.on_refused: Callable[[int], None] | None = None
        """Gets the code of a refusal that paho cannot report."""
        self.on_answer: Callable[[int, list[int]], None] | None = None
        """Gets identifier and codes of each SUBACK and UNSUBACK, in place of paho's callbacks."""
        self.unanswered: dict[int, None] = {}
        """Identifiers of SUBSCRIBE and UNSUBSCRIBE packets without an answer; not used again while they are here."""
        self.receive_maximum = 65_535
        """QoS 2 messages that the broker may have under way."""
        self.epoch = 0
        """Number of the connection, for `Message.epoch`."""
        self._reader = BatchReader(self.outbox, None, manual_ack=False)
        super().__init__(*arguments, **options)

    @property
    def _v5(self) -> bool:
        return self._protocol == MQTTProtocolVersion.MQTTv5

    def _packet_handle(self) -> MQTTErrorCode:
        """Check the packet before paho decodes it."""
        if self.on_batch is not None:
            command = self._in_packet["command"]
            check_order(command, accepted=self._reader.accepted)
            if command & 0xF0 == paho.PUBLISH:
                check_properties(command, self._in_packet["packet"], v5=self._v5)
        return super()._packet_handle()

    # Messages.

    def _call_on_batch(self, messages: list[Message]) -> None:
        """Run the handler as paho runs its callbacks."""
        assert self.on_batch is not None
        with self._in_callback_mutex:
            self.on_batch(messages)

    def _handle_on_message(self, message: paho.MQTTMessage) -> None:
        """Pass on a message that paho decoded, except QoS 2, which `_handle_publish` has delivered."""
        if self.on_batch is None:
            super()._handle_on_message(message)
        elif message.qos < MAX_QOS or self._manual_ack:
            self._deliver(message)

    def _deliver(self, message: paho.MQTTMessage) -> None:
        found = convert.message_from_paho(message, self.epoch)
        if found.properties is not None and found.properties.topic_alias is not None:
            raise UnexpectedPacket("a topic alias, which we never allowed")  # MQTT 5, 3.1.2.11.5
        self._call_on_batch([found])

    def _handle_publish(self) -> MQTTErrorCode:
        """Deliver a QoS 2 message as soon as it comes, and keep only its identifier until PUBREL (MQTT 5, 4.3.3).

        Messages that are acknowledged by hand are delivered at PUBREL, as paho does it.
        """
        if self.on_batch is None or self._in_packet["command"] & 6 != MAX_QOS << 1:
            return super()._handle_publish()
        mid = packet_identifier(self._in_packet["packet"])
        repeated = mid in self._in_messages
        if not repeated:
            self._check_room(len(self._in_packet["packet"]))
        code = super()._handle_publish()
        message = self._in_messages.get(mid)
        if message is not None and not self._manual_ack:
            if not repeated:
                self._deliver(message)
            message.payload, message._topic, message.properties = b"", b"", None
        return code

    def _check_room(self, size: int) -> None:
        """Raise UnexpectedPacket if another QoS 2 message would exceed our limits (MQTT 5, 3.3.4)."""
        waiting = self._in_messages
        if len(waiting) >= self.receive_maximum:
            raise UnexpectedPacket(f"more than {self.receive_maximum} QoS 2 messages without PUBREL (Receive Maximum)")
        limit = self.outbox.limits.max_packet_size
        if self._manual_ack and size + sum(len(message.payload) for message in waiting.values()) > limit:
            raise UnexpectedPacket(f"more than {limit} bytes of QoS 2 messages without PUBREL")

    # Answers.

    def _handle_connack(self) -> MQTTErrorCode:
        """Let the outbox resume within the limits that the broker granted (MQTT 5, 3.2.2.3).

        paho would answer a refusal of MQTT 3.1.1 with MQTT 3.1, and cannot decode codes that it does not know.
        """
        packet: Any = self._in_packet["packet"]
        code = packet[1] if len(packet) > 1 else 0
        known = is_known(PacketTypes.CONNACK, code) if self._v5 else code != 1 and code <= MAX_CONNACK_311
        if not known and self.on_refused is not None:
            self.on_refused(code)
            return MQTTErrorCode.MQTT_ERR_CONN_REFUSED
        if self._v5:
            clamp_packet_size(packet)
        decoded = _packet.decode_connack(self._in_packet["command"], packet, self._protocol)
        if decoded.rc == 0:
            self._reader.accepted = True
            self.unanswered.clear()
            properties = vars(decoded.properties) if decoded.properties is not None else {}
            self.outbox.resume(broker_limits(properties, v5=self._v5))
            self._max_inflight_messages = self.outbox.exact_window
        return super()._handle_connack()

    def _handle_suback(self) -> None:
        """Pass on the codes, unknown ones too: paho raises over them."""
        if self.on_answer is None:
            super()._handle_suback()
            return
        mid, codes = suback(self._in_packet["packet"], v5=self._v5)
        if any(MAX_QOS < code < DENIED for code in codes):
            raise UnexpectedPacket(f"SUBACK with the codes {codes}")
        self.on_answer(mid, codes)

    def _handle_unsuback(self) -> MQTTErrorCode:
        if self.on_answer is None:
            return super()._handle_unsuback()
        mid, codes = suback(self._in_packet["packet"], v5=self._v5)
        self.on_answer(mid, codes)
        return SUCCESS

    def _handle_pubrec(self) -> MQTTErrorCode:
        """End a QoS 2 publish that the broker denies: paho goes on as if it were accepted (MQTT 5, 4.3.3)."""
        packet = self._in_packet["packet"]
        if not self._v5 or len(packet) < 3 or packet[2] < DENIED:
            return super()._handle_pubrec()
        return self._end_qos2(int.from_bytes(packet[:2], "big"), packet[2])

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """Resolve a publish of the outbox whose PUBACK the splitter left to paho; decode codes that paho cannot."""
        packet, command = self._in_packet["packet"], self._in_packet["command"]
        mid = int.from_bytes(packet[:2], "big")
        failed = self._v5 and len(packet) > 2 and packet[2] >= DENIED
        if failed and mid in self._out_messages:
            return self._end_qos2(mid, packet[2])
        if cmd == "PUBACK" and mid in self.outbox.flights and mid not in self._out_messages:
            code = packet[2] if failed else _packet.decode_puback(command, packet, self._protocol).reason.value
            self.outbox.acknowledge([(mid, code)])
            return SUCCESS
        return super()._handle_pubackcomp(cmd)

    def _end_qos2(self, mid: int, code: int) -> MQTTErrorCode:
        """Resolve a QoS 2 publish as denied, in the outbox and in paho."""
        with self._out_message_mutex:
            if mid not in self._out_messages:
                return SUCCESS
            self.outbox.acknowledge([(mid, code)])
            reason = known_failure(PacketTypes.PUBREC, code)
            return self._do_on_publish(mid, reason, PahoProperties(PacketTypes.PUBREC))

    def _do_on_publish(self, mid: int, reason_code: Any, properties: Any) -> MQTTErrorCode:
        """Resolve the outbox's QoS 2 publish."""
        code = super()._do_on_publish(mid, reason_code, properties)
        self.outbox.acknowledge([(mid, reason_code.value)])
        return code

    def _mid_generate(self) -> int:
        """Return an identifier above the outbox's, and not that of a QoS 2 publish or SUBSCRIBE under way.

        A broker that never answers would use them all: then the oldest unanswered one is used again.
        """
        with self._mid_generate_mutex:
            if len(self._out_messages) + len(self.unanswered) >= 65_535 - MAX_FAST_MID:
                self.unanswered.pop(next(iter(self.unanswered)))
            while True:
                self._last_mid = max(self._last_mid, MAX_FAST_MID) + 1
                if self._last_mid > 65_535:
                    self._last_mid = MAX_FAST_MID + 1
                if self._last_mid not in self._out_messages and self._last_mid not in self.unanswered:
                    return self._last_mid
