"""Actions of the live view as commands."""

from __future__ import annotations

import shlex

from mqttkit.live.actions import connection_words, publish_command, remove_command, restore_command, subscribe_command
from mqttkit.messages import Message
from mqttkit.settings import BrokerSettings, MqttSettings, TlsSettings


def words_of(**fields: object) -> list[str]:
    return connection_words(MqttSettings(broker=BrokerSettings(**fields)))  # type: ignore[arg-type]


def test_a_local_broker_needs_no_options() -> None:
    assert words_of(host="localhost", port=1883) == []


def test_a_command_never_has_the_password() -> None:
    words = words_of(host="far", port=2000, username="ann", password="secret")
    assert words == ["-h", "far", "-p", "2000", "-u", "ann"]


def test_tls_is_an_option() -> None:
    assert words_of(host="far", port=8883, tls=TlsSettings()) == ["-h", "far", "--tls"]
    assert words_of(host="far", port=8883, tls=TlsSettings(ca_file="ca.crt")) == ["-h", "far", "--cafile", "ca.crt"]


def test_commands_are_quoted_for_the_shell() -> None:
    message = Message("a b/c", b"it's $HOME", 1, True)
    command = publish_command(message, ["-p", "1"])
    assert shlex.split(command) == ["mqttkit", "pub", "-p", "1", "-q", "1", "-r", "-m", "it's $HOME", "a b/c"]
    assert shlex.split(publish_command(Message("a"), []))[-2:] == ["-n", "a"]
    assert subscribe_command("a/#", []) == "mqttkit sub -v 'a/#'"
    assert remove_command("a/#", []) == "mqttkit retained prune 'a/#'"
    assert restore_command([]) == "mqttkit retained restore SNAPSHOT"
