"""Bridges as settings, as lines of mosquitto.conf, and as a file."""

from __future__ import annotations

import stat

import pytest

from mqttkit.broker.mosquitto.bridge_connections import (
    BridgeConnection,
    BridgeTopic,
    bridge_files,
    bridge_section,
    load_bridges,
    save_bridges,
)
from mqttkit.broker.profile import BrokerPaths
from mqttkit.errors import LifecycleError, UsageError

BRIDGE = BridgeConnection(
    name="cloud",
    host="broker.example",
    port=8883,
    client_id="default-cloud-1",
    topics=(BridgeTopic(pattern="site/#"), BridgeTopic(pattern="#", direction="in", qos=2, remote_prefix="commands/")),
    username="site",
    password="secret pass",
    trusted="PEM",
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("site/#", 'topic site/# out 1 "" ""'),
        ("site/# both", 'topic site/# both 1 "" ""'),
        ("# in 2 local/ remote/", "topic # in 2 local/ remote/"),
        ('# out 0 "" remote/', 'topic # out 0 "" remote/'),
        ('"" in 1 here there', 'topic "" in 1 here there'),
    ],
)
def test_a_topic_is_written_as_mosquitto_reads_it(text: str, line: str):
    assert BridgeTopic.parse(text).line == line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not valid"),
        ("a up", "is not valid"),
        ("a out 3", "QoS"),
        ("a out 1 b c d", "is not valid"),
        ("a/#/b", "# must be"),
        ("a out 1 +/", "contains a wildcard"),
        ("'a b'", "white space"),
        ("'a", "is not valid"),
    ],
)
def test_a_topic_that_mosquitto_would_not_understand_is_an_error(text: str, reason: str):
    with pytest.raises(UsageError, match=reason):
        BridgeTopic.parse(text)


def test_the_section_names_the_files_below_the_root():
    assert bridge_section([BRIDGE], "/mosquitto/").splitlines() == [
        "",
        "connection cloud",
        "address broker.example:8883",
        'topic site/# out 1 "" ""',
        'topic # in 2 "" commands/',
        "remote_clientid default-cloud-1",
        "remote_username site",
        "remote_password secret pass",
        "cleansession false",
        "restart_timeout 1 60",
        "keepalive_interval 30",
        "notifications true",
        "bridge_cafile /mosquitto/config/certs/bridge-cloud.crt",
    ]
    assert bridge_section([]) == ""
    assert "secret" not in repr(BRIDGE)


@pytest.mark.parametrize("secret", [" x", "x ", "a\nuser root", "a\0b"])
def test_a_secret_cannot_add_lines_to_the_configuration(secret: str):
    with pytest.raises(UsageError):
        BridgeConnection(name="a", host="h", port=1, client_id="c", topics=(), username="u", password=secret)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\nb", "a" * 33, "../a"])
def test_a_name_is_safe_in_a_file_name_and_a_line(name: str):
    with pytest.raises(UsageError):
        BridgeConnection(name=name, host="h", port=1, client_id="c", topics=())


@pytest.mark.parametrize("host", ["a b", "a\nlog_type none", "a\tb"])
def test_an_address_cannot_add_another_one_or_lines_to_the_configuration(host: str):
    with pytest.raises(UsageError, match="not the address"):
        BridgeConnection(name="a", host=host, port=1, client_id="c", topics=())


def test_bridges_are_stored_for_their_owner_only_and_read_back():
    paths = BrokerPaths.of("default")
    paths.directory.mkdir(parents=True)
    assert load_bridges(paths) == []
    save_bridges(paths, [BRIDGE])
    assert load_bridges(paths) == [BRIDGE]
    assert stat.S_IMODE(paths.bridges.stat().st_mode) == 0o600
    assert bridge_files(paths) == {"config/certs/bridge-cloud.crt": b"PEM"}


@pytest.mark.parametrize("text", ['{"bridges": 1}', '{"bridges": [{}]}', '{"bridges": [{"topics": [1]}]}', "{"])
def test_a_damaged_file_is_named(text: str):
    paths = BrokerPaths.of("default")
    paths.directory.mkdir(parents=True)
    paths.bridges.write_text(text)
    with pytest.raises(LifecycleError, match=r"bridges\.json"):
        load_bridges(paths)
