"""The seam into paho holds: its private names are where they were, and call each other as they did."""

from __future__ import annotations

import inspect

import paho.mqtt as paho_mqtt
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

KNOWN_LINES = ("2.2.",)
"""Release lines of paho that the seam was read against. For a new one: read what paho changed, then add it."""

CALLS = [
    ("loop_forever", "_loop"),
    ("_packet_read", "_sock_recv"),
    ("_packet_read", "_packet_handle"),
    ("_packet_write", "_sock_send"),
    ("_packet_write", "_out_packet"),
    ("loop_write", "_packet_write"),
    ("loop_write", "want_write"),
    ("_send_publish", "_packet_queue"),
    ("_send_command_with_mid", "_packet_queue"),
    ("_send_simple_command", "_packet_queue"),
    ("_packet_handle", "_handle_connack"),
    ("_packet_handle", "_handle_pubackcomp"),
    ("_handle_publish", "_handle_on_message"),
    ("_handle_publish", "_send_puback"),
    ("_handle_pubrel", "_handle_on_message"),
    ("_handle_pubackcomp", "_do_on_publish"),
    ("ack", "_send_puback"),
    ("publish", "_mid_generate"),
    ("_send_subscribe", "_mid_generate"),
    ("reconnect", "_create_socket"),
    ("reconnect", "_sock_close"),
    ("_loop_rc_handle", "_sock_close"),
    ("_reset_sockets", "_sock_close"),
    ("_check_keepalive", "_last_bytes_received"),
    ("_check_keepalive", "_last_msg_out"),
    ("loop_misc", "_ping_t"),
    ("_thread_main", "loop_forever"),
]
SIGNATURES = {
    "_packet_queue": ["self", "command", "packet", "mid", "qos", "info"],
    "_do_on_publish": ["self", "mid", "reason_code", "properties"],
    "_handle_pubackcomp": ["self", "cmd"],
    "_handle_on_message": ["self", "message"],
    "_sock_recv": ["self", "bufsize"],
    "_sock_send": ["self", "buf"],
    "_loop": ["self", "timeout"],
    "loop_read": ["self", "max_packets"],
}
ATTRIBUTES = (
    "_sock",
    "_sockpairR",
    "_sockpairW",
    "_out_packet",
    "_out_messages",
    "_in_packet",
    "_state",
    "_protocol",
    "_ssl",
    "_transport",
    "_thread",
    "_last_mid",
    "_mid_generate_mutex",
    "_msgtime_mutex",
    "_in_callback_mutex",
    "_registered_write",
    "_manual_ack",
    "_ping_t",
    "_connect_timeout",
    "_websocket_path",
    "_websocket_extra_headers",
)


def test_release_line_is_known() -> None:
    """A paho that the seam was never read against is noticed here first."""
    assert paho_mqtt.__version__.startswith(KNOWN_LINES), (
        f"paho {paho_mqtt.__version__} is new: read mqttkit/wire/seam.py against it; until then MQTTKIT_PLAIN_PAHO=1"
    )


@pytest.mark.parametrize(("caller", "callee"), CALLS)
def test_paho_still_calls_what_we_override(caller: str, callee: str) -> None:
    """An override that nobody calls any more would silently do nothing."""
    assert callee in getattr(paho.Client, caller).__code__.co_names


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_as_they_were(name: str) -> None:
    """What we override takes what paho passes."""
    assert list(inspect.signature(getattr(paho.Client, name)).parameters) == SIGNATURES[name]


def test_attributes_are_there() -> None:
    """What we read and write exists in a fresh client."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    assert [name for name in ATTRIBUTES if not hasattr(client, name)] == []
    assert hasattr(paho, "_WebsocketWrapper")
