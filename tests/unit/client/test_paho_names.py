"""The seam into paho holds: its private names are listed, are where they were, and call each other as they did."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import paho.mqtt as paho_mqtt
import pytest
from paho.mqtt import _packet, enums
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

import mqttkit
from mqttkit.client.paho_internals.names import CLIENT_NAMES, OTHER_NAMES

PACKAGE = Path(mqttkit.__file__).parent
DERIVED_FROM = ("paho.Client", "IncomingPackets", "Connection", "_WebsocketWrapper")

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
    ("_packet_handle", "_handle_pubrec"),
    ("_packet_handle", "_handle_publish"),
    ("_packet_handle", "_handle_suback"),
    ("_packet_handle", "_handle_unsuback"),
    ("_handle_publish", "_in_messages"),
    ("loop_start", "_thread_main"),
    ("_create_socket", "_create_socket_connection"),
    ("_create_socket", "_ssl_wrap_socket"),
    ("_create_socket_connection", "_get_proxy"),
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


def test_release_line_is_known() -> None:
    """A paho that the seam was never read against is noticed here first."""
    assert paho_mqtt.__version__.startswith(KNOWN_LINES), (
        f"paho {paho_mqtt.__version__} is new: read mqttkit/client/connection.py against it, then add it to KNOWN_LINES"
    )


@pytest.mark.parametrize(("caller", "callee"), CALLS)
def test_paho_still_calls_what_we_override(caller: str, callee: str) -> None:
    """An override that nobody calls any more would silently do nothing."""
    assert callee in getattr(paho.Client, caller).__code__.co_names


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_as_they_were(name: str) -> None:
    """What we override takes what paho passes."""
    assert list(inspect.signature(getattr(paho.Client, name)).parameters) == SIGNATURES[name]


def test_every_name_is_there() -> None:
    """What we use exists: in a fresh client, its class, or the module."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    assert [name for name in CLIENT_NAMES if not hasattr(client, name)] == []
    assert hasattr(paho, "_WebsocketWrapper")
    assert "_socket" in paho._WebsocketWrapper.__init__.__code__.co_names
    assert hasattr(paho.MQTTMessage(), "_topic")
    assert hasattr(enums, "_ConnectionState")
    assert _packet.DECODE_ERRORS


def test_every_name_is_listed_and_used() -> None:
    """The table is what the code does: no private name of paho beside it, and none in it for nothing."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    theirs = {name for name in dir(client) if name[0] == "_" != name[1]} | OTHER_NAMES.keys()
    used = set().union(*(private_names(path) for path in PACKAGE.rglob("*.py"))) & theirs
    assert sorted(used) == sorted(CLIENT_NAMES.keys() | OTHER_NAMES.keys())


def private_names(path: Path) -> set[str]:
    """Return the private names in the classes of a file that derive from paho's, and what it imports from paho."""
    tree = ast.parse(path.read_text())
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "_topic"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paho"):
            found |= {*node.module.split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base) in DERIVED_FROM for base in node.bases):
            found |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            found |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in found if name.startswith("_")}
