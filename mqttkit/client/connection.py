"""paho's client with whole batches of packets on its socket. `paho_internals/names.py` lists paho's private names.

paho does CONNECT, SUBSCRIBE, QoS 2, keep alive, the will and the WebSocket handshake, and queues its own small packets
(`_out_packet`). `Connection` puts each read through a `BatchReader` and hands paho only the remaining
packets, one at a time, through `_sock_recv`; and it joins the publishes that wait in an `Outbox` into one send.
It opens one connection when told to; when and where is for the reconnect policy.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.enums import _ConnectionState as State

from mqttkit.client.incoming import SUCCESS, IncomingPackets
from mqttkit.client.packets import properties as convert
from mqttkit.client.receiving.batch_reader import BatchReader
from mqttkit.client.receiving.read_pacing import GATHER, MANY_IN_FLIGHT
from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.partial_send import PartialSend
from mqttkit.client.sending.receipt import Receipt
from mqttkit.client.transport import sockets
from mqttkit.client.transport.opener import Opener
from mqttkit.client.transport.websocket import BatchedWebSocket
from mqttkit.messages import Message
from mqttkit.settings import ClientSettings, PropertySettings

AGAIN = MQTTErrorCode.MQTT_ERR_AGAIN
LOST, NO_CONNECTION = MQTTErrorCode.MQTT_ERR_CONN_LOST, MQTTErrorCode.MQTT_ERR_NO_CONN
SENDS_A_TURN = 8
"""Batches sent before the network thread looks at what it received."""
VIEW_BYTES = 64 * 1024
"""A packet of paho's above this is sent from a view: paho copies what is left of it at every partial send."""


class Connection(IncomingPackets):
    """One connection at a time: the socket and the packets on it. The rest is paho's interface."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.run: Callable[[], None] | None = None
        """The body of the network thread, in place of paho's loop."""
        self.opener = Opener()
        self.added = PropertySettings()
        """Properties that the user adds to our packets."""
        self.sent_bytes = 0
        """See `ClientStats`."""
        self._handed: bytes | None = None
        self._sending = PartialSend()
        self._idle = self._paused = self._mute = False
        self._held = 0
        self._moved = 0.0
        super().__init__(*arguments, **options)
        self.attach(self.outbox, None)

    def attach(self, outbox: Outbox, on_batch: Callable[[list[Message]], None] | None, *, plain: bool = False) -> None:
        """Take publishes from `outbox` and give messages to `on_batch`, see `Splitter`. Before connecting."""
        self.outbox, self.on_batch = outbox, on_batch
        deliver = None if on_batch is None else self._call_on_batch
        self._reader = BatchReader(outbox, deliver, manual_ack=self._manual_ack, plain=plain)
        outbox.publish_qos2 = self._publish_qos2

    def open(self, address: tuple[str, int], *, v5: bool, settings: ClientSettings) -> None:
        """Connect and queue CONNECT; raise what the failed step of the `opener` raises."""
        self._protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        self.receive_maximum = settings.receive_maximum if v5 else 65_535
        start: dict[str, Any] = {}
        if v5:
            properties = convert.connect_properties(settings, self.outbox.limits.max_packet_size, self.added)
            start = {"clean_start": settings.clean_session, "properties": properties}
        else:
            self._clean_session = settings.clean_session
        self.opener.start()
        self._address = address
        host, port = address if address[1] else ("localhost", 1883)  # paho knows no Unix sockets, and uses neither
        self.connect_async(host, port, settings.keep_alive, **start)
        self.reconnect()

    def identify(self, client_id: str) -> None:
        """Use this client identifier from the next connection on."""
        self._client_id = client_id.encode()

    def turn(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds, then read and write once; return False once the connection has ended."""
        return self._sock is not None and self._loop(timeout) == SUCCESS and self._sock is not None

    def subscribe_to(self, wanted: list[Any]) -> tuple[MQTTErrorCode, int | None]:
        """Send SUBSCRIBE for paho's pairs of filter and options."""
        return self.subscribe(wanted, properties=convert.subscribe_properties(self.added) if self._v5 else None)

    def unsubscribe_from(self, topic_filters: list[str]) -> tuple[MQTTErrorCode, int | None]:
        """Send UNSUBSCRIBE."""
        properties = convert.unsubscribe_properties(self.added) if self._v5 else None
        return self.unsubscribe(topic_filters, properties)

    def say_goodbye(self) -> None:
        """Send DISCONNECT. Any thread."""
        self.disconnect(properties=convert.disconnect_properties(self.added) if self._v5 else None)

    def abort(self) -> None:
        """Close the socket without DISCONNECT, in the network thread; nothing more is delivered."""
        self._sock_close()

    def drop(self) -> None:
        """End the connection without DISCONNECT; the network thread notices. Any thread."""
        connection = self._sock
        if connection is not None:
            sockets.shut_down(connection.fileno())

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """Run `run` in the thread that paho starts."""
        assert self.run is not None
        self.run()
        return SUCCESS

    def release(self) -> None:
        """Wait for the network thread, which has finished its work, and close all sockets."""
        thread = self._thread  # paho's loop_stop reads it twice, and the thread removes it as its last act
        if thread is not None:
            thread.join()
        self._sock_close()
        self._reset_sockets(sockpair_only=True)

    def _create_socket(self) -> Any:
        """Open the socket with `opener`; through a proxy as paho does."""
        proxied = self._get_proxy() is not None
        return self.opener.open(self._address, self._create_socket_connection if proxied else None)

    # The loop.

    def wake(self) -> None:
        """Make the network thread look at the outbox and at `pause_reading`. Any thread may call it."""
        if self._idle:
            self._idle = False
            writer = self._sockpairW
            if writer is not None:
                with contextlib.suppress(BlockingIOError):
                    writer.send(b"0")

    def pause_reading(self, paused: bool) -> None:
        """Stop or resume reading: TCP then holds the broker back. Pings go on. Any thread may call it."""
        self._paused = paused
        self.wake()

    def hold_reading(self, level: int) -> None:
        """Stop reading for a full inbox: 1 unless an answer is awaited, 2 in any case; 0 resumes. Any thread."""
        self._held = level
        self.wake()

    @property
    def _reads(self) -> bool:
        """False while the broker is held back. An answer that somebody awaits lies behind messages: read on."""
        if not self._reader.accepted:
            return True  # CONNACK comes first
        if self._paused or self._held > 1:
            return False
        return not self._held or bool(self.outbox.flights or self.unanswered)

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Wait for the socket or a wake-up, then read, write and ping once."""
        sock = self._sock
        descriptor = -1 if sock is None else sock.fileno()
        if descriptor < 0:
            return super()._loop(0.0)  # says how the connection ended; waits for nothing
        self._idle = True
        reads = self._reads
        wants = (select.POLLIN if reads else 0) | (select.POLLOUT if self.want_write() else 0)
        pending = getattr(sock, "pending", int)() if reads else 0
        events = sockets.wait(descriptor, wants, self._sockpairR, 0.0 if pending else timeout)
        self._idle = False
        if pending or events & ~select.POLLOUT:
            code = self.loop_read()
            if code or self._sock is None:
                return code
        if events & select.POLLOUT or (self.want_write() and not self._registered_write):
            code = self.loop_write()
            if code or self._sock is None:
                return code
        pause = GATHER if len(self.outbox.flights) >= MANY_IN_FLIGHT else self._reader.pause
        if pause and not self.want_write():
            time.sleep(pause)
        return self.loop_misc()

    def loop_misc(self) -> MQTTErrorCode:
        """Keep alive as paho does. Bytes that move, or that we leave in the socket, are signs of life too."""
        now = time.monotonic()
        with self._msgtime_mutex:
            if not self._reads:
                self._last_bytes_received = self._moved = now
                self._ping_t = 0.0  # the answer may lie unread: do not wait for it
            if self._ping_t and self._moved > self._ping_t:
                self._ping_t = self._moved
        return super().loop_misc()

    def _sock_close(self) -> None:
        """Close the socket; publishes that were half sent wait again."""
        self.outbox.suspend()
        self._sending.interrupt(self.outbox)
        self._mute = False
        self._handed = None
        self._reader.clear()
        super()._sock_close()

    # Reading.

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # paho's signature
        """Read from the socket, deliver the messages, hand paho the other packets."""
        if self._sock is None:
            return NO_CONNECTION
        code = self._drain(self._sock, self._fill())
        return self._loop_rc_handle(code) if code > 0 else SUCCESS

    def _fill(self) -> MQTTErrorCode:
        """Receive into the reader."""
        try:
            more = self._reader.fill(self._receive, once=not self._ssl and self._transport == "tcp")
        except OSError as error:
            self._easy_log(paho.MQTT_LOG_ERR, "failed to receive on socket: %s", error)
            return LOST
        self._moved = max(self._moved, self._reader.received_at)
        self._last_bytes_received = max(self._last_bytes_received, self._reader.received_at)
        return AGAIN if more else LOST

    def _receive(self, size: int) -> bytes:
        """Receive as paho does; its `except ssl.…` would load ssl whenever nothing waits to be read."""
        if self._ssl:
            return super()._sock_recv(size)
        if self._sock is None:
            raise ConnectionError("the socket is closed")
        return self._sock.recv(size)

    def _sock_recv(self, bufsize: int) -> bytes:
        """Give paho the packet that was handed to it."""
        handed = self._handed
        if handed is None:
            return self._receive(bufsize)
        piece, self._handed = handed[:bufsize], handed[bufsize:]
        if not piece:
            raise BlockingIOError
        return piece

    def _drain(self, sock: object, filled: MQTTErrorCode) -> MQTTErrorCode:
        """Parse what was read; return paho's error, or what filling the buffer ended with."""
        reader = self._reader
        while (packet := reader.next_packet(v5=self._v5, number=self.epoch)) is not None:
            if self.outbox.acknowledgements:
                self._packet_write()  # the next packet may end the connection
            self._handed = packet
            code = self._packet_read()
            self._handed = None
            if code > 0 or self._sock is not sock:
                return code
        return filled if self._sock is sock else SUCCESS

    # Writing.

    def want_write(self) -> bool:
        """Return whether something can be sent."""
        if self._mute:
            return False
        if self._out_packet or self._sending.rest or getattr(self._sock, "unsent", False):
            return True
        return self._state == State.MQTT_CS_CONNECTED and self.outbox.ready()

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: paho.MQTTMessageInfo | None = None
    ) -> MQTTErrorCode:
        """Queue a packet of paho's; if a network thread runs, only that thread sends."""
        if self._thread is None:
            return super()._packet_queue(command, packet, mid, qos, info)
        if command == paho.DISCONNECT:
            packet = self.outbox.take_acknowledgements() + packet  # nothing may follow it (MQTT 5, 3.14)
        view: Any = memoryview(packet) if len(packet) > VIEW_BYTES else packet
        size = len(packet)
        entry: Any = {"command": command, "mid": mid, "qos": qos, "pos": 0, "to_process": size, "packet": view}
        self._out_packet.append(entry | {"info": info})
        self.wake()
        return SUCCESS

    def _send_puback(self, mid: int) -> MQTTErrorCode:
        """Send the acknowledgement with the next batch."""
        if self._sock is None:
            return NO_CONNECTION
        self.outbox.acknowledgements.append(b"@\2" + mid.to_bytes(2, "big"))
        self.wake()
        return SUCCESS

    def _publish_qos2(self, item: Receipt) -> int:
        """Let paho publish with QoS 2; the outbox has checked the window."""
        topic, payload = item.topic[2:].decode(), item.payload
        return self.publish(topic, payload, 2, item.retain, convert.unpack(item.properties)).mid

    def _packet_write(self) -> MQTTErrorCode:
        """Send the rest of the batch, then paho's packets, then more batches, as far as the socket takes them."""
        code = self._send_rest()
        if code == SUCCESS and self._out_packet:
            code = super()._packet_write()
            if self._out_packet:
                return code
        for _ in range(SENDS_A_TURN):
            if code != SUCCESS or self._state != State.MQTT_CS_CONNECTED or self._sock is None:
                break
            batch = self.outbox.take(v5=self._v5)
            if batch is None:
                break
            self._sending.begin(batch)
            code = self._send_rest()
        return code

    def _send_rest(self) -> MQTTErrorCode:
        """Send the rest of the batch; return AGAIN if the socket does not take all of it."""
        sending = self._sending
        try:
            while sending.rest:
                sending.advance(self._sock_send(sending.rest))  # type: ignore[arg-type]  # paho only passes it on
                self._moved = self._last_msg_out = time.monotonic()
            if isinstance(self._sock, BatchedWebSocket) and not self._sock.flush():
                self._call_socket_register_write()
                return AGAIN
        except BlockingIOError:
            return AGAIN
        except OSError as error:
            self._easy_log(paho.MQTT_LOG_ERR, "failed to send on socket: %s", error)
            return LOST
        sending.finish(self.outbox)
        return SUCCESS

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send as paho does, without loading ssl for plain TCP.

        A connection that the broker has ended takes nothing more, but earlier messages may still wait to be read:
        reading them comes to the end of the stream and reports the connection as lost.
        """
        if self._sock is None:
            raise ConnectionError("the socket is closed")
        try:
            if not self._mute:
                sent = super()._sock_send(buf) if self._ssl else self._sock.send(buf)
                self.sent_bytes += sent
                return sent
        except BlockingIOError:
            self._call_socket_register_write()
            raise
        except ConnectionError:
            self._mute = True
        raise BlockingIOError
