"""Every private name of paho that mqttkit overrides, calls, reads or sets, and what for.

A release of paho may move any of them. Tests compare this table with paho and with the code that uses the names:
`connection.py`, `incoming.py`, `transport/websocket.py` and `packets/properties.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

CLIENT_NAMES: Mapping[str, str] = {
    "_loop": "poll instead of select (no limit at file descriptor 1,024), a wake-up byte only for a sleeper",
    "_sockpairR": "the wake-up bytes",
    "_sockpairW": "the wake-up bytes",
    "_thread": "whether a network thread runs",
    "_packet_read": "reads the packet that is handed to it",
    "_sock_recv": "hands over what is left of a read",
    "_in_packet": "the packet that paho reads",
    "_packet_write": "sends paho's packets, then batches",
    "_sock_send": "a connection that takes nothing more is still read to its end",
    "_packet_queue": "paho's packets wait for the network thread",
    "_out_packet": "paho's packets that wait",
    "_registered_write": "whether paho waits for room in the socket",
    "_call_socket_register_write": "reports that the socket is full",
    "_handle_connack": "session present, Receive Maximum, Maximum Packet Size; never MQTT 3.1",
    "_handle_pubrec": "a QoS 2 publish that is denied ends",
    "_packet_handle": "checks a packet before paho decodes it",
    "_handle_publish": "delivers QoS 2 at PUBLISH, and bounds the messages that wait for PUBREL",
    "_in_messages": "QoS 2 messages that wait for PUBREL",
    "_handle_suback": "SUBACK with codes that paho does not know",
    "_handle_unsuback": "UNSUBACK with codes that paho does not know",
    "_handle_on_message": "what paho decoded joins the batches",
    "_handle_pubackcomp": "resolves a PUBACK that the splitter left to paho",
    "_do_on_publish": "resolves a publish of QoS 2",
    "_send_puback": "acknowledgements go with the next batch",
    "_manual_ack": "whether the handler acknowledges",
    "_mid_generate": "paho's packet identifiers begin above the outbox's",
    "_mid_generate_mutex": "paho's lock of it",
    "_last_mid": "the identifier given last",
    "_out_messages": "QoS 1 and 2 publishes of paho's under way",
    "_out_message_mutex": "paho's lock of them",
    "_max_inflight_messages": "Receive Maximum is their bound",
    "_in_callback_mutex": "the handler runs as paho's callbacks do",
    "_easy_log": "paho's log",
    "_state": "connected or not",
    "_protocol": "the version, which may fall back",
    "_client_id": "the client identifier, which may be replaced",
    "_clean_session": "clean session of MQTT 3.1.1 after a fall-back",
    "_sock": "the socket",
    "_sock_close": "a connection's buffers end with it",
    "_reset_sockets": "closes the wake-up sockets",
    "_loop_rc_handle": "ends a connection",
    "_create_socket_connection": "connects through a proxy",
    "_create_socket": "sockets with our TLS handshake and WebSocket frames",
    "_get_proxy": "whether a proxy is configured",
    "_ssl": "whether TLS is used",
    "_transport": "whether WebSockets are used",
    "_host": "the address to connect to",
    "_port": "the address to connect to",
    "_last_bytes_received": "keep alive sees the bytes that flowed",
    "_last_msg_out": "keep alive sees the bytes that flowed",
    "_ping_t": "keep alive sees the bytes that flowed",
    "_msgtime_mutex": "paho's lock of these",
}
"""Of `paho.mqtt.client.Client`."""
OTHER_NAMES: Mapping[str, str] = {
    "_WebsocketWrapper": "the handshake; its `_socket` carries our frames",
    "_socket": "the socket inside `_WebsocketWrapper`",
    "_topic": "of MQTTMessage: a topic name that is not UTF-8",
    "_packet": "the module that decodes CONNACK and PUBACK, and its DECODE_ERRORS",
    "_ConnectionState": "the values of `_state`",
}
"""Of paho's other classes and modules."""
