"""From URL, settings and keywords to the settings of a client."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import mqttkit
from mqttkit.client import MqttClient
from mqttkit.client.connecting import Client, ConnectOptions, SettingOptions, connect, split_options
from mqttkit.errors import ConfigError, TopicError, UsageError
from mqttkit.messages import Will
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, Settings, TlsSettings


def settings_of(broker: Any, **options: Any) -> MqttSettings:
    """Return the settings that `connect` gives its client."""
    return split_options(broker, options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("url", "expected"), [
    ("mqtt://h", BrokerSettings(host="h")),
    ("mqtt://u:p@h:1", BrokerSettings(host="h", port=1, username="u", password="p")),
    ("mqtts://h", BrokerSettings(host="h", port=8883, tls=TlsSettings())),
    ("ws://h", BrokerSettings(host="h", port=80, transport="websockets")),
    ("wss://h/a/b",
     BrokerSettings(host="h", port=443, transport="websockets", websocket_path="/a/b", tls=TlsSettings())),
])  # fmt: skip
def test_a_url_becomes_settings(url: str, expected: BrokerSettings) -> None:
    """The path of a WebSocket URL is the path of the request."""
    assert settings_of(url) == MqttSettings(broker=expected)


def test_keywords_override_single_fields() -> None:
    """Of TLS, broker and client; all else stays as it was given."""
    given = MqttSettings(
        broker=BrokerSettings(host="h", username="a", tls=TlsSettings(ca_file="ca")),
        client=ClientSettings(keep_alive=7),
    )
    expected = MqttSettings(
        broker=BrokerSettings(host="h", username="b", tls=TlsSettings(ca_file="ca", insecure=True)),
        client=ClientSettings(keep_alive=7, client_id="c"),
    )
    assert settings_of(given, username="b", insecure=True, client_id="c") == expected
    assert settings_of(Settings(mqtt=given)) == given


@pytest.mark.parametrize(("will", "error"), [({"topic": "a/#"}, TopicError), ({"topic": "a", "qos": 3}, ValueError)])
def test_a_will_checks_itself(will: dict[str, Any], error: type[Exception]) -> None:
    """A will that no broker would accept is an error before the client connects."""
    with pytest.raises(error):
        Will(**will)


def test_each_keyword_is_a_field_of_the_settings() -> None:
    """A renamed field fails here."""
    fields = {name for cls in (TlsSettings, BrokerSettings, ClientSettings) for name in cls.__dataclass_fields__}
    assert set(SettingOptions.__annotations__) <= fields
    assert set(ConnectOptions.__annotations__) - set(SettingOptions.__annotations__) == {"will", "manual_ack", "retry"}


@pytest.mark.parametrize("text", ["secret\nnot this\n", "secret\r\n", "secret"])
def test_the_password_is_the_first_line_of_the_password_file(tmp_path: Path, text: str) -> None:
    """From a keyword and from settings; a password in the settings gives way to the keyword."""
    file = tmp_path / "password"
    file.write_text(text)
    file.chmod(0o600)
    by_settings = MqttSettings(broker=BrokerSettings(password_file=str(file)))
    for client in (
        connect("mqtt://h", password_file=str(file)),
        connect("mqtt://u:old@h", password_file=str(file)),
        connect(by_settings),
        MqttClient(by_settings),
    ):
        assert client._connection._password == b"secret"


def test_a_password_file_that_every_user_can_read_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As for the settings file."""
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        connect("mqtt://h", password_file=str(file))
    assert caplog.messages == [f"every user can read {file}. Run: chmod 600 {file}"]


@pytest.mark.parametrize(("broker", "options", "error", "message"), [
    ("mqtt://h/sensor/#", {}, UsageError, "the URL has the topic 'sensor/#'. Subscribe to it instead"),
    ("http://h", {}, UsageError, "a broker's URL is mqtt"),
    ("mqtt://h", {"ca_file": "ca"}, UsageError, "ca_file needs a broker with TLS. Use mqtts:// or wss://"),
    ("mqtt://h", {"password": "a", "password_file": "b"}, UsageError, "give password or password_file, not both"),
    ("mqtt://h", {"password_file": "/nowhere"}, ConfigError, "password_file: cannot read /nowhere: No such file"),
    ("mqtt://h", {"keep_alive": 70_000}, ConfigError, "ClientSettings.keep_alive: must be 0 to 65535, got 70000"),
    ("mqtt://h", {"user": "a"}, TypeError, "connect() has no option 'user': use one of username, password, "),
    (None, {}, TypeError, "connect() takes a URL or settings, not NoneType"),
    (BrokerSettings(), {}, TypeError, "connect() takes a URL or settings, not BrokerSettings"),
])  # fmt: skip
def test_what_cannot_work_is_an_error_before_connecting(
    broker: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Each error says what to do, or which name is wrong."""
    with pytest.raises(error) as caught:
        connect(broker, **options)
    assert str(caught.value).startswith(message)


def test_connect_returns_a_client_that_is_not_connected_yet() -> None:
    """Only `with` connects it; the options that are not settings reach the client."""
    client = mqttkit.connect("mqtt://localhost:1", client_id="c", will=Will("a"), retry=False)
    assert isinstance(client, Client)
    assert (client.client_id, client.state) == ("c", mqttkit.ConnectionState.IDLE)
    assert split_options("mqtt://h", {"manual_ack": True, "retry": False})[1] == {"manual_ack": True, "retry": False}
    client.close()
