"""Settings objects check themselves: each bound at its edge, and the error names the field."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from mqttkit.config.schema import root
from mqttkit.errors import ConfigError, UsageError
from mqttkit.settings import (
    BridgeSettings,
    BrokerSettings,
    ClientSettings,
    ControllerSettings,
    DecodeSettings,
    LimitSettings,
    MemorySettings,
    MqttSettings,
    PropertySettings,
    PublisherSettings,
    ReconnectSettings,
    ScannerSettings,
    Settings,
    SparkplugSettings,
    TlsSettings,
)
from mqttkit.settings.rules import PERIOD, FieldRule, ValueRule, field_rules, period_seconds

SMALL = 1e-9
ONE = "6f1d7c1e-0000-4000-8000-000000000001"
EDGES: list[tuple[Any, str, list[Any], list[Any]]] = [
    (BrokerSettings, "host", ["a", "::1"], ["", " "]),
    (BrokerSettings, "port", [1, 65_535], [0, 65_536]),
    (BrokerSettings, "hosts", [(), ("a",), ("a:1", "[::1]:65535")], [("",), ("a", "b:0"), ("a:65536",)]),
    (BrokerSettings, "transport", ["tcp", "websockets"], ["", "udp"]),
    (BrokerSettings, "websocket_path", ["/", "/mqtt"], ["", "mqtt"]),
    (BrokerSettings, "proxy", [None, "socks5h://h", "SOCKS5H://u:p%3A@[::1]:1/"],
     ["", "h:1", "http://h:1", "socks5h://", "socks5h://h:0", f"socks5h://{'u' * 256}@h"]),
    (BrokerSettings, "bind_address", [None, "127.0.0.2", "::1"], ["", " "]),
    (TlsSettings, "psk", [None, "00", "aAfF09"], ["", "a", "0x00", "aa aa", "gg"]),
    (TlsSettings, "psk_identity", ["", "lamp"], ["a\0"]),
    (BrokerSettings, "unix_socket", [None, "/run/m.sock"], ["a\0"]),
    (ClientSettings, "client_id", [None, "", "a"], ["a\0"]),
    (ClientSettings, "keep_alive", [0, 65_535], [-1, 65_536]),
    (ClientSettings, "session_expiry", [0, 0xFFFF_FFFF], [-1, 0x1_0000_0000]),
    (ClientSettings, "qos", [0, 1, 2], [-1, 3]),
    (ClientSettings, "version", ["auto", "5", "311"], ["3", ""]),
    (ClientSettings, "receive_maximum", [1, 65_535], [0, 65_536]),
    (ClientSettings, "connect_timeout", [SMALL, 3], [0, 0.0, -1.0]),
    (ReconnectSettings, "initial_delay", [SMALL], [0.0]),
    (ReconnectSettings, "max_delay", [SMALL], [0.0]),
    (LimitSettings, "max_inflight", [1, 65_535], [0, 65_536]),
    (LimitSettings, "max_queued_messages", [1], [0]),
    (LimitSettings, "max_queued_bytes", [1], [0]),
    (LimitSettings, "max_unsent_bytes", [None, 1, 0x7FFF_FFFF], [0, 0x8000_0000]),
    (LimitSettings, "max_packet_size", [1_024, 268_435_455], [1_023, 268_435_456]),
    *[(PropertySettings, name, [(), ("a=", "=b", "a=b=c")], [("a",), ("a=\0",)])
      for name in ("connect", "subscribe", "unsubscribe", "disconnect")],
    (PropertySettings, "subscription_identifier", [None, 1, 268_435_455], [0, 268_435_456]),
    (PropertySettings, "disconnect_expiry", [None, 0, 0xFFFF_FFFF], [-1, 0x1_0000_0000]),
    (ScannerSettings, "id", ["a", "x" * 64], ["", "a/b", "x" * 65]),
    (ScannerSettings, "source", ["auto", "bleak", "bluepy", "simulated", "replay:f"],
     ["radio", "replay:", "auto:", "replay", ""]),
    (ScannerSettings, "speed", [None, SMALL], [0.0]),
    (ScannerSettings, "devices", [1], [0]),
    (ScannerSettings, "rate", [SMALL], [0.0]),
    (ScannerSettings, "min_rssi", [None, -127, 20], [-128, 21]),
    (ScannerSettings, "company", [(), ("4c00", "AFaf")], [("4c0",), ("4c000",), ("4c0g",), ("4c00", "x")]),
    (ScannerSettings, "interval", [0.0], [-SMALL]),
    (PublisherSettings, "topic", ["a", "{scanner_id}/{mac_address}"], ["", "a/{x}", "a/#"]),
    (PublisherSettings, "qos", [None, 0, 2], [-1, 3]),
    (PublisherSettings, "stats_interval", [SMALL], [0.0]),
    (PublisherSettings, "status_topic", [None, "a"], ["", "+"]),
    (PublisherSettings, "queue_size", [1], [0]),
    (PublisherSettings, "max_age", [0.1], [0, -1]),
    (DecodeSettings, "raw", ["a", "a/#", "+/b"], ["", "a#", "#/a"]),
    (DecodeSettings, "state", ["a", "{mac_address}"], ["", "{mac}", "a/+"]),
    (DecodeSettings, "status", ["a"], ["", "+"]),
    (DecodeSettings, "gateway_status", [None, "{scanner_id}/status"], ["", "{id}", "#"]),
    (DecodeSettings, "prefix", ["a", "a/b"], ["", "a/#"]),
    (DecodeSettings, "away_after", [SMALL], [0.0]),
    (DecodeSettings, "window", [0.0], [-SMALL]),
    (MemorySettings, "warn", [1], [0]),
    (MemorySettings, "max", [None, 1], [0]),
    (BridgeSettings, "topic", ["{tenant_id}/{agent_id}/{metric_name}"], ["{tenant}", "#"]),
    (BridgeSettings, "group", [None, "a"], ["", "a/b", "+"]),
    (BridgeSettings, "batch_size", [1], [0]),
    (BridgeSettings, "batch_window", [0.0], [-SMALL]),
    (BridgeSettings, "queue_size", [1], [0]),
    (BridgeSettings, "payload_limit", [1], [0]),
    (BridgeSettings, "dedupe_window", [1], [0]),
    (BridgeSettings, "redis_durability", ["server", "replica", "fsync"], ["", "disk"]),
    (BridgeSettings, "dead_letter_quota", [0], [-1]),
    (BridgeSettings, "table", ["metrics", "iot.Metrics_2"], ["", "a b", "a.b.c", 'x"', "1a"]),
    (BridgeSettings, "columns", [None, "value=reading,tags=-"], ["", "value", "value=-", "speed=x", "value=agent_id"]),
    (BridgeSettings, "keep", [None, "30d", "12h"], ["", "0d", "30", "d", "1.5h"]),
    (BridgeSettings, "dead_letter_limit", [0], [-1]),
    (BridgeSettings, "dead_letter_bytes", [None, 1], [0]),
    (BridgeSettings, "dead_letter_overflow", ["keep", "drop"], ["", "block"]),
    (BridgeSettings, "sink_timeout", [SMALL], [0.0]),
    (BridgeSettings, "health_port", [None, 0, 65_535], [-1, 65_536]),
    (BridgeSettings, "drain_timeout", [SMALL], [0.0]),
    (BridgeSettings, "stats_interval", [SMALL], [0.0]),
    (BridgeSettings, "check_interval", [SMALL], [0.0]),
    (BridgeSettings, "skew_limit", [SMALL], [0.0]),
    (SparkplugSettings, "groups", [(), ("Plant 1=6F1D7C1E-0000-4000-8000-000000000001",), (f"a=b={ONE}", f"a={ONE}")],
     [("a",), ("a=b",), (f"={ONE}",), (f"a={ONE}", f"a={ONE}")]),
    (SparkplugSettings, "memory", [1], [0]),
    (ControllerSettings, "id", [None, "a"], ["", "a/b"]),
    (ControllerSettings, "region", ["a"], ["", "#"]),
    (ControllerSettings, "base", ["a", "a/b"], ["", "a/#"]),
    (ControllerSettings, "policy_qos", [1, 2], [0, 3]),
    (ControllerSettings, "transports", [("mqtt",), ("memory", "http", "mqtt")], [(), ("pigeon",), ("mqtt", "x")]),
    (ControllerSettings, "http_url", [None, "http://a", "https://a"], ["a", "ftp://a"]),
    (ControllerSettings, "http_listen", [None, "a:0", "a:65535", "[::1]:1"], ["a", ":1", "a:65536", "a:x", "a:\u00b2"]),
    (ControllerSettings, "poll_interval", [SMALL], [0.0]),
    (ControllerSettings, "heartbeat_interval", [SMALL], [0.0]),
    (ControllerSettings, "clock_skew", [0.0], [-SMALL]),
    (ControllerSettings, "max_message_bytes", [1, 64 * 1024 * 1024], [0, 64 * 1024 * 1024 + 1]),
    (ControllerSettings, "handler_retries", [0, 100], [-1, 101]),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "name", "good", "bad"), EDGES, ids=[f"{row[0].__name__}.{row[1]}" for row in EDGES])
def test_each_rule_holds_at_its_edges(cls: Any, name: str, good: list[Any], bad: list[Any]) -> None:
    """The last value that passes, and the first that does not; the error names class and field."""
    for value in good:
        assert getattr(cls(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            cls(**{name: value})
        assert str(caught.value).startswith(f"{cls.__name__}.{name}: "), value
        assert caught.value.field == name


def test_each_rule_has_a_row_in_the_table_of_edges() -> None:
    """A new rule without a test of its bounds fails here."""
    rows = {(cls, name) for cls, name, _good, _bad in EDGES}
    ruled = {
        (section.cls, name)
        for section in root().sections()
        for name, found in field_rules(section.cls).items()
        if found.rule is not None
    }
    assert rows == ruled


@pytest.mark.parametrize(("cls", "values", "message"), [
    (BrokerSettings, {"port": 65_536}, "BrokerSettings.port: must be 1 to 65535, got 65536"),
    (BrokerSettings, {"port": "1883"}, "BrokerSettings.port: must be 1 to 65535, got '1883'"),
    (BrokerSettings, {"port": True}, "BrokerSettings.port: must be 1 to 65535, got True"),
    (BrokerSettings, {"host": None}, "BrokerSettings.host: must be a host name or an address, got None"),
    (BrokerSettings, {"hosts": "a"}, "BrokerSettings.hosts: must be a list of host or host:port, got 'a'"),
    (BrokerSettings, {"hosts": ("a", 1)}, "BrokerSettings.hosts: must be a list of host or host:port, got ('a', 1)"),
    (BrokerSettings, {"hosts": ("a:x",)}, "BrokerSettings.hosts: port must be 1 to 65535, got 'x' in 'a:x'"),
    (BrokerSettings, {"username": 7}, "BrokerSettings.username: must be text, got 7"),
    (BrokerSettings, {"password": 7}, "BrokerSettings.password: must be text"),
    (BrokerSettings, {"tls": True}, "BrokerSettings.tls: must be a section, got True"),
    (TlsSettings, {"alpn": ["h2"]}, "TlsSettings.alpn: must be a list, got ['h2']"),
    (TlsSettings, {"insecure": "no"}, "TlsSettings.insecure: must be true or false, got 'no'"),
    (ClientSettings, {"connect_timeout": float("nan")}, "ClientSettings.connect_timeout: must be more than 0, got nan"),
    (ClientSettings, {"connect_timeout": False}, "ClientSettings.connect_timeout: must be more than 0, got False"),
    (ClientSettings, {"keep_alive": 1.5}, "ClientSettings.keep_alive: must be 0 to 65535, got 1.5"),
    (ScannerSettings, {"company": ("4c",)}, "ScannerSettings.company: must be two hex bytes such as 4c00, got '4c'"),
    (ScannerSettings, {"source": "x"},
     "ScannerSettings.source: must be auto, bleak, bluepy, simulated or replay:FILE, got 'x'"),
    (ScannerSettings, {"seed": 1.0}, "ScannerSettings.seed: must be a whole number, got 1.0"),
    (ControllerSettings, {"transports": ()},
     "ControllerSettings.transports: must be some of mqtt, http and memory, got ()"),
    (ControllerSettings, {"region": "a/b"},
     "ControllerSettings.region: region 'a/b' has '/', which a topic level must not contain"),
    (ControllerSettings, {"http_url": "x"}, "ControllerSettings.http_url: must be http://host:port, got 'x'"),
    (MqttSettings, {"broker": None}, "MqttSettings.broker: must be a section, got None"),
])  # fmt: skip
def test_a_wrong_value_names_the_field_and_what_it_takes(cls: Any, values: dict[str, Any], message: str) -> None:
    """A wrong type is reported like a wrong value; a secret is never shown."""
    with pytest.raises(UsageError) as caught:
        cls(**values)
    assert str(caught.value) == message


def test_a_changed_copy_is_checked_as_well() -> None:
    """dataclasses.replace goes through the same check."""
    with pytest.raises(ConfigError, match=r"ClientSettings\.qos"):
        dataclasses.replace(ClientSettings(), qos=3)


def test_a_choice_takes_only_its_words() -> None:
    """A field may have a Literal type."""
    choice = FieldRule(Literal["a", "b"], optional=False, rule=None)
    assert choice.problem("a") == ""
    assert choice.problem("c") == "must be a or b"
    assert choice.problem(None) == "must be a or b"


def test_the_defaults_are_valid() -> None:
    """All settings can be built without arguments."""
    assert Settings() == Settings(mqtt=MqttSettings(broker=BrokerSettings(port=1883)))


def test_a_rule_reports_the_cause_that_its_test_raises() -> None:
    """A ValueError says more than the general sentence."""

    def fails(_value: object) -> bool:
        raise ValueError("the cause")

    assert ValueRule("x", fails).problem(1) == "the cause"
    assert ValueRule("x", bool).problem(0) == "must be x"
    assert ValueRule("x", bool).problem(1) == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("45s", 45), ("2m", 120), ("1h", 3_600), ("30d", 2_592_000), ("4w", 2_419_200)]
)
def test_a_period_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert period_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0h", "00d", "h", "12", "-1h", "1.5h", "1 h", "1y", "1h\n", ""])
def test_anything_else_is_not_a_period(text: str) -> None:
    with pytest.raises(ValueError, match="must be a period such as 12h, 30d or 4w"):
        period_seconds(text)


def test_a_rule_cannot_be_changed() -> None:
    """Rules are shared by all settings."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PERIOD.expected = "x"  # type: ignore[misc]
