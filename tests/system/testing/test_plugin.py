"""The pytest plugin, in a pytest of its own and on real brokers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import blocks, find_page

pytestmark = pytest.mark.system

PASSING = """
import pytest

def test_messages_are_recorded(mqtt_client, mqtt_recorder):
    mqtt_client.publish("a/b", '{"x": 1}', qos=1).result(5)
    mqtt_client.publish("a/c", "text", qos=1).result(5)
    assert mqtt_recorder.saw("a/b", json={"x": 1}, within=5)
    assert mqtt_recorder.saw("a/+", count=2)
    assert mqtt_recorder.saw("a/c", "text")
    assert mqtt_recorder.saw_nothing("other/#", within=0.1)

def test_the_broker_is_shared(mqtt_broker, request):
    assert "PUBLISH" in mqtt_broker.log
    assert mqtt_broker is request.getfixturevalue("_shared_mqtt_broker")

def test_a_recorder_does_not_see_earlier_retained_messages(mqtt_client, mqtt_broker):
    from mqttkit.testing.recorder import MessageRecorder

    mqtt_client.publish("old", "x", qos=1, retain=True).result(5)
    with MessageRecorder(mqtt_broker.settings()) as recorder:
        mqtt_client.publish("new", "x", qos=1).result(5)
        assert recorder.saw("new")
        assert recorder.saw_nothing("old", within=0.1)

@pytest.mark.mqtt_broker(users={"lamp": "secret", "app": "other"}, acl={"lamp": ["write lamp/#"]}, tls=True)
def test_users_rules_and_tls(mqtt_broker, mqtt_recorder):
    import mqttkit

    with mqtt_broker.connect("lamp", tls=True) as lamp:
        lamp.publish("lamp/1", "on", qos=1).result(5)
        with pytest.raises(mqttkit.PublishDenied):
            lamp.publish("door/1", "open", qos=1).result(5)
    assert mqtt_recorder.saw("lamp/1", "on")
    with pytest.raises(mqttkit.UsageError, match="no user 'nobody'"):
        mqtt_broker.settings("nobody")
    with pytest.raises(mqttkit.ConnectionRefused), mqttkit.connect(mqtt_broker.url):
        pass

@pytest.mark.mqtt_proxy("drop PUBLISH 2 from client", seed=7)
def test_the_proxy_drops_the_second_message(mqtt_proxy, mqtt_recorder):
    with mqtt_proxy.connect() as client:
        for payload in ("one", "two", "three"):
            client.publish("a/b", payload)
        client.publish("a/b", "four", qos=1).result(20)
    assert mqtt_recorder.saw("a/b", "four", within=20)
    assert [message.text for message in mqtt_recorder] == ["one", "three", "four"]
    assert mqtt_proxy.rules[0].applied == 1

@pytest.mark.mqtt_proxy("cut PUBLISH 1 from client")
def test_a_cut_connection_is_reported(mqtt_proxy):
    import mqttkit

    with mqtt_proxy.connect() as client:
        with pytest.raises(mqttkit.PublishLost):
            client.publish("a/b", "x", qos=1).result(20)
        client.publish("a/b", "x", qos=1, wait=20).result(20)
    assert mqtt_proxy.totals.connections == 2
"""

FAILING = """
def test_fails(mqtt_client, mqtt_recorder):
    mqtt_client.publish("a/b", '{"x": 2}', qos=1).result(5)
    assert mqtt_recorder.saw("a/b", json={"x": 1}, within=0.5)
"""


def run(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file with this text, in a directory without our own settings."""
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_it.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)


def test_the_fixtures_work(tmp_path: Path) -> None:
    """Client, recorder, shared broker, a broker with users, rules and TLS, and the proxy."""
    done = run(tmp_path, PASSING, "-W", "error", "--strict-markers")
    assert "6 passed" in done.stdout, done.stdout


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    """Each Python block of the page on testing."""
    done = run(tmp_path, "\n\n".join(blocks(find_page("testing.md"), "python")))
    assert "3 passed" in done.stdout, done.stdout


def test_a_failure_says_what_was_seen_instead(tmp_path: Path) -> None:
    """With the topic and the payload."""
    done = run(tmp_path, FAILING)
    assert "1 failed" in done.stdout
    assert "0 of 1 messages on 'a/b' with JSON {'x': 1} within 0.5 s" in done.stdout
    assert "the last ones: a/b b'{\"x\": 2}'" in done.stdout


def test_the_plugin_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    """A project that has mqttkit installed pays nothing for it."""
    text = (
        "import sys\ndef test_it():\n"
        "    found = [name for name in sys.modules if name.startswith('mqttkit') or name.startswith('paho')]\n"
        "    assert sorted(found) == ['mqttkit', 'mqttkit.testing', 'mqttkit.testing.plugin']\n"
    )
    done = run(tmp_path, text)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("users={'a': 'b'}, acl={'x': ['read a']}", "acl names the user 'x'"),
        ("users={'a': 'b'}, acl={'a': ['see a']}", "'see a' is not a rule"),
        ("user={'a': 'b'}", "unexpected keyword"),
    ],
)
def test_a_wrong_marker_is_named(tmp_path: Path, marker: str, complaint: str) -> None:
    """As an error of the test's set-up."""
    text = f"import pytest\n@pytest.mark.mqtt_broker({marker})\ndef test_it(mqtt_broker): pass\n"
    done = run(tmp_path, text)
    assert "1 error" in done.stdout
    assert complaint in done.stdout
