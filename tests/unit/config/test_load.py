"""Load settings from mqttkit.yaml, environment, flags and profile."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.config import Effective, load_settings
from mqttkit.config.located_values import given as node_of
from mqttkit.config.schema import Section, root
from mqttkit.config.sources import SHORT_FORMS, variables
from mqttkit.config.yaml_reader import parse
from mqttkit.config.yaml_writer import commented, descriptions, rows, show
from mqttkit.errors import ConfigError
from mqttkit.settings import (
    BrokerSettings,
    ClientSettings,
    MqttSettings,
    ReconnectSettings,
    ScannerSettings,
    Settings,
    TlsSettings,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in its own directory, so that it has its own ./mqttkit.yaml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    profile: Mapping[str, object] | None = None,
) -> Effective:
    """Load `text` as ./mqttkit.yaml with the other sources."""
    if text is not None:
        Path("mqttkit.yaml").write_text(text)
        Path("mqttkit.yaml").chmod(0o600)
    return load_settings(
        None,
        environ={"XDG_CONFIG_HOME": "/nowhere", **(environ or {})},
        flags=flags or {},
        profile=profile or {},
    )


def refusal(text: str | None = None, **sources: Mapping[str, object]) -> str:
    """Return the error that loading raises."""
    with pytest.raises(ConfigError) as caught:
        load(text, **sources)  # type: ignore[arg-type]
    return str(caught.value)


def test_no_source_at_all_gives_the_defaults() -> None:
    """Without file, variable, flag and profile the settings are the dataclasses' own."""
    effective = load()
    assert effective.settings == Settings()
    assert set(effective.origins.values()) == {"default"}
    assert effective.path is None


def test_yaml_is_not_imported_without_a_file() -> None:
    """Start-up and memory figures depend on it."""
    code = (
        "import sys; from mqttkit.config import load_settings;"
        "load_settings(None, environ={'XDG_CONFIG_HOME': '/nowhere', 'MQTTKIT_HOST': 'x'},"
        "flags={}, profile={});"
        "print('mqttkit.config' in sys.modules, 'yaml' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_flag_beats_environment_beats_file_beats_profile_beats_default() -> None:
    """`origins` names the source of each value."""
    text = "mqtt:\n  client: {keep_alive: 2, qos: 2}\n  reconnect:\n    max_delay: 3\n"
    effective = load(
        text,
        {"MQTTKIT_MQTT_CLIENT_KEEP_ALIVE": "3", "MQTTKIT_MQTT_CLIENT_RECEIVE_MAXIMUM": "5"},
        {"mqtt.client.keep_alive": 4},
        {
            "mqtt.client.keep_alive": 1,
            "mqtt.client.receive_maximum": 4,
            "mqtt.client.qos": 1,
            "scanner.id": "p",
        },
    )
    found = effective.settings
    assert found.mqtt.client.keep_alive == 4
    assert effective.origins["mqtt.client.keep_alive"] == "flag"
    assert found.mqtt.client.receive_maximum == 5
    origin = effective.origins["mqtt.client.receive_maximum"]
    assert origin == "environment variable MQTTKIT_MQTT_CLIENT_RECEIVE_MAXIMUM"
    assert (found.mqtt.client.qos, effective.origins["mqtt.client.qos"]) == (2, "mqttkit.yaml:2")
    assert (found.mqtt.reconnect.max_delay, effective.origins["mqtt.reconnect.max_delay"]) == (
        3,
        "mqttkit.yaml:4",
    )
    assert (found.scanner.id, effective.origins["scanner.id"]) == ("p", "profile")
    assert effective.origins["scanner.source"] == "default"


@pytest.mark.parametrize(("variable", "value", "path"), [
    ("MQTTKIT_HOST", "broker.example", "host"),
    ("MQTTKIT_PORT", "8883", "port"),
    ("MQTTKIT_USERNAME", "alice", "username"),
    ("MQTTKIT_PASSWORD", "0123", "password"),
    ("MQTTKIT_MQTT_BROKER_HOST", "broker.example", "host"),
])  # fmt: skip
def test_short_and_long_variables_set_the_broker(variable: str, value: str, path: str) -> None:
    """MQTTKIT_HOST is MQTTKIT_MQTT_BROKER_HOST."""
    effective = load(environ={variable: value})
    assert str(getattr(effective.settings.mqtt.broker, path)) == value
    assert effective.origins[f"mqtt.broker.{path}"] == f"environment variable {variable}"


def test_variables_for_one_setting_that_differ_are_refused() -> None:
    """mqttkit cannot know which one the user meant."""
    message = refusal(environ={"MQTTKIT_HOST": "a", "MQTTKIT_MQTT_BROKER_HOST": "b"})
    assert "environment variable MQTTKIT_" in message
    assert "differs" in message


def test_lists_in_variables_are_split_at_commas() -> None:
    """A variable has no brackets."""
    assert load(environ={"MQTTKIT_SCANNER_MAC": "AA, BB,"}).settings.scanner.mac == ("AA", "BB")


def test_a_variable_that_names_no_setting_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A typing error does not silently mean the default."""
    load(environ={"MQTTKIT_MQTT_BROKER_PROT": "1", "MQTTKIT_UNRELATED": "x", "MQTTKIT_PORT": ""})
    assert "did you mean MQTTKIT_MQTT_BROKER_PORT?" in caplog.text
    assert "UNRELATED" not in caplog.text


@pytest.mark.parametrize(("name", "meant"), [
    ("MQTTKIT_USER", "MQTTKIT_USERNAME"), ("MQTTKIT_PASSWROD", "MQTTKIT_PASSWORD"), ("MQTTKIT_HSOT", "MQTTKIT_HOST"),
    ("MQTTKIT_BROKER_HOST", "MQTTKIT_MQTT_BROKER_HOST"), ("MQTTKIT_CA_FILE", "MQTTKIT_MQTT_BROKER_TLS_CA_FILE"),
    ("MQTTKIT_CLIENT_ID", "MQTTKIT_MQTT_CLIENT_CLIENT_ID"),
])  # fmt: skip
def test_a_variable_that_nearly_names_a_setting_is_warned_of(
    caplog: pytest.LogCaptureFixture, name: str, meant: str
) -> None:
    """The log has one warning, with the name that the user meant."""
    load(environ={name: "1"})
    assert caplog.messages == [f"environment variable {name} is not a setting; did you mean {meant}?"]


def test_a_variable_of_a_section_is_warned_of_however_far_from_any_setting(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the nearest variable if there is one."""
    load(environ={"MQTTKIT_SCANNER_IDENTIFIER": "1", "MQTTKIT_MQTT_QQQQQQQQQQQQQQQQQQQQ": "1"})
    assert caplog.messages == [
        "environment variable MQTTKIT_SCANNER_IDENTIFIER is not a setting; "
        "did you mean MQTTKIT_SCANNER_IDENTITIES_FILE?",
        "environment variable MQTTKIT_MQTT_QQQQQQQQQQQQQQQQQQQQ is not a setting",
    ]


def test_a_password_file_that_only_its_owner_can_read_is_not_warned_of(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of mode 0600 gives no warning."""
    (here / "pw").write_text("secret\n")
    (here / "pw").chmod(0o600)
    assert load("mqtt: {broker: {password_file: pw}}").settings.mqtt.broker.password == "secret"
    assert caplog.messages == []


@pytest.mark.parametrize("name", [
    "MQTTKIT_SITE", "MQTTKIT_SERVICE_HOST", "MQTTKIT_PORT_1883_TCP_ADDR", "MQTTKIT_SITE_HOST",
    "OTHER_MQTTKIT_USER",
])  # fmt: skip
def test_a_variable_that_may_be_somebody_else_s_is_not_warned_of(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """References of the settings file, and variables that a container engine sets."""
    load(environ={name: "1"})
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "message"), [
    ("\n" * 11 + "mqtt: {broker: {port: abc}}\n",
     "mqttkit.yaml:12: mqtt.broker.port: must be 1 to 65535, got 'abc'"),
    ("mqtt:\n  broker:\n    port: 0\n", "mqttkit.yaml:3: mqtt.broker.port: must be 1 to 65535, got '0'"),
    ("mqtt: {broker: {port: [1]}}", "mqttkit.yaml:1: mqtt.broker.port: must be 1 to 65535, got a list"),
    ("mqtt: {broker: {port: }}", "mqttkit.yaml:1: mqtt.broker.port: must be 1 to 65535, got nothing"),
    ("mqtt: {client: {qos: 3}}", "must be 0 to 2, got '3'"),
    ("mqtt: {client: {keep_alive: 65536}}", "must be 0 to 65535, got '65536'"),
    ("mqtt: {client: {clean_session: perhaps}}", "must be true or false, got 'perhaps'"),
    ("mqtt: {client: {version: '4'}}", "must be auto, 5 or 311, got '4'"),
    ("mqtt: {client: {connect_timeout: nan}}", "mqtt.client.connect_timeout: must be more than 0, got 'nan'"),
    ("mqtt: {broker: {hosts: [a, 'b:x']}}", "mqtt.broker.hosts: port must be 1 to 65535"),
    ("mqtt: {broker: {hosts: a}}", "mqtt.broker.hosts: must be a list of host or host:port, got 'a'"),
    ("mqtt: {broker: x}", "mqttkit.yaml:1: mqtt.broker: must be a section with keys, got 'x'"),
    ("- a", "mqttkit.yaml:1: the file: must be a section with keys, got a list"),
    ("publisher: {topic: 'a/{nix}'}",
     "mqttkit.yaml:1: publisher.topic: topic template 'a/{nix}': unknown placeholder"),
    ("publisher: {topic: 'a/#'}", "wildcard"),
    ("scanner: {id: a/b}", "mqttkit.yaml:1: scanner.id: scanner identifier 'a/b' has '/'"),
    ("scanner: {id: 'a+b'}", "'+'"),
    ('scanner: {id: "a\\0b"}', "which a topic level must not contain"),
    ("scanner: {id: " + "x" * 65 + "}", "65 characters, at most 64"),
    ("scanner: {source: radio}", "must be auto, bleak, bluepy, simulated or replay:FILE"),
    ("controller: {http_listen: 8088}", "must be host:port, got '8088'"),
    ("controller: {http_listen: 'a:99999'}", "must be host:port"),
    ("controller: {transports: [pigeon]}", "must be some of mqtt, http and memory"),
    ("scanner: {company: [4c00, 4c]}", "scanner.company: must be two hex bytes such as 4c00, got '4c'"),
    ('scanner: {name: ["\\ud800"]}', "must be valid Unicode"),
    ("mqtt: {broker: {prot: 1}}",
     "mqttkit.yaml:1: unknown key 'mqtt.broker.prot'. Did you mean mqtt.broker.port?"),
    ("\nbroker: {port: 1}", "mqttkit.yaml:2: unknown key 'broker'. Did you mean mqtt.broker?"),
    ("port: 1", "unknown key 'port'. Did you mean mqtt.broker.port?"),
    ("zzz: 1", "unknown key 'zzz'. Known keys: mqtt, scanner, publisher"),
    ("scanner: {id: a}\nscanner: {id: b}", "mqttkit.yaml:2: 'scanner' is already set in line 1"),
    ("? [a]\n: b", "mqttkit.yaml:1: a key must be a word"),
    ("mqtt: {broker: {host: '${NOT_THERE}'}}", "mqttkit.yaml:1: environment variable NOT_THERE is not set"),
    ("mqtt: {broker: {host: '${}'}}", "'${}' is not a reference"),
    ("mqtt: [", "mqttkit.yaml:1: not YAML"),
    ("a: &a [*a]", "nested deeper than"),
    ("[" * 5000, "mqttkit.yaml:1: nested deeper than"),
    ('a: "\\UFFFFFFFF"', "mqttkit.yaml: not YAML"),
    ("a: 1\n---\nb: 2", "not YAML"),
    ("a: \x01", "not YAML"),
])  # fmt: skip
def test_what_cannot_work_is_refused_with_file_line_and_path(text: str, message: str) -> None:
    """There is one error, and it names the place."""
    assert message in refusal(text)


def test_aliases_that_multiply_are_cut_off() -> None:
    """Ten levels of ten aliases are ten thousand million values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    assert "more than 100000 values" in refusal("\n".join(lines))


@pytest.mark.parametrize(("flags", "message"), [
    ({"mqtt.broker.port": 0}, "flag: mqtt.broker.port: must be 1 to 65535, got 0"),
    ({"mqtt.broker.port": True}, "must be 1 to 65535, got True"),
    ({"mqtt.broker.host": 1.5, "mqtt.broker.hosts": 3}, "flag: mqtt.broker.hosts: must be"),
    ({"mqtt.nix": 1}, "flag: unknown key 'mqtt.nix'"),
    ({"mqtt.broker.password": "p", "mqtt.broker.password_file": "f"},
     "give password or password_file, not both"),
])  # fmt: skip
def test_flags_are_checked_as_the_file_is(flags: dict[str, object], message: str) -> None:
    """The error starts with `flag`."""
    assert message in refusal(flags=flags)


def test_an_error_names_the_option_that_gave_the_value() -> None:
    """A flag may come with the name of its option; a valid value counts like any other."""
    from mqttkit.config.located_values import given as located

    assert load(flags={"mqtt.client.qos": located(1, "--qos")}).settings.mqtt.client.qos == 1
    assert refusal(flags={"bridge.group": located("a/b", "--group")}).startswith("--group: bridge.group: ")


@pytest.mark.parametrize(
    ("columns", "valid"),
    [
        ("timestamp_ms=time,value=reading,tags=-", True),
        ("received_ms=-,tags=received_ms", True),
        ("value=-", False),
        ("speed=x", False),
        ("value=agent_id", False),
        ("value=a,value=b", False),
        ("value=a b", False),
        ("value", False),
        ("value=", False),
    ],
)
def test_columns_of_the_bridge_name_each_field_once(columns: str, valid: bool) -> None:
    """Only tags and received_ms can be left out, and two fields never share a column."""
    source = {"bridge.columns": columns}
    if valid:
        assert load(flags=source).settings.bridge.columns == columns
    else:
        assert "bridge.columns: must be FIELD=COLUMN" in refusal(flags=source)


def test_a_secret_is_in_no_error() -> None:
    """No error shows a password, even if it is not text or its reference is in another setting."""
    assert "got" not in refusal("mqtt: {broker: {password: [hunter2]}}")
    message = refusal("mqtt: {broker: {port: '${SECRET}'}}", environ={"SECRET": "hunter2"})
    assert message == "mqttkit.yaml:1: mqtt.broker.port: must be 1 to 65535, got '${SECRET}'"


def test_scalars_take_the_type_of_their_setting() -> None:
    """YAML's own types (octal, yes, dates, null) do not change text."""
    broker = load(
        "mqtt: {broker: {username: 0123, password: no, host: 2026-01-01, transport: 'tcp'}}"
    ).settings.mqtt.broker
    assert (broker.username, broker.password, broker.host) == ("0123", "no", "2026-01-01")
    assert load("scanner: {speed: max}").settings.scanner.speed is None
    assert load("scanner: {speed: null, loop: yes, min_rssi: -70}").settings.scanner.min_rssi == -70
    assert load('mqtt: {broker: {username: "null"}}').settings.mqtt.broker.username == "null"


def test_references_are_filled_from_the_environment() -> None:
    """${NAME} anywhere in a value; $${ is a plain ${; a single dollar sign stays as it is."""
    text = "mqtt: {broker: {host: 'x-${SITE}.example', username: '$${SITE}', password: 'pa$$w$rd'}}"
    broker = load(text, {"SITE": "7"}).settings.mqtt.broker
    assert (broker.host, broker.username, broker.password) == ("x-7.example", "${SITE}", "pa$$w$rd")


def test_empty_files_and_sections_are_fine() -> None:
    """A file with only comments is normal."""
    for text in ("", "# nothing\n", "mqtt:\nscanner: {}\n", "\ufeffmqtt:\n"):
        assert load(text).settings == Settings()


@pytest.mark.parametrize(
    ("written", "path", "wanted"),
    [
        ("mqtt: {broker: {unix_socket: run/m.sock}}", "mqtt.broker.unix_socket", "etc/run/m.sock"),
        ("bridge: {sink: 'sqlite:metrics.db'}", "bridge.sink", "sqlite:etc/metrics.db"),
        ("bridge: {sink: 'jsonl:out/m.jsonl'}", "bridge.sink", "jsonl:etc/out/m.jsonl"),
        ("bridge: {sink: 'sqlite:/var/m.db'}", "bridge.sink", "sqlite:/var/m.db"),
        ("bridge: {sink: 'redis://host/0'}", "bridge.sink", "redis://host/0"),
        ("bridge: {tenants: tenants.yaml}", "bridge.tenants", "etc/tenants.yaml"),
        ("bridge: {tenants: 'sqlite:tenants.db'}", "bridge.tenants", "sqlite:etc/tenants.db"),
        ("bridge: {tenants: 'redis://host/0#known'}", "bridge.tenants", "redis://host/0#known"),
        ("bridge: {dead_letters: letters.db}", "bridge.dead_letters", "etc/letters.db"),
        ("scanner: {source: 'replay:room.jsonl'}", "scanner.source", "replay:etc/room.jsonl"),
        ("scanner: {source: simulated}", "scanner.source", "simulated"),
        ("controller: {key_file: keys.json}", "controller.key_file", "etc/keys.json"),
    ],
)
def test_every_file_name_is_relative_to_the_settings_file(here: Path, written: str, path: str, wanted: str) -> None:
    """Also one with a prefix; an environment variable or a flag is relative to the working directory."""
    (here / "etc").mkdir()
    (here / "etc" / "m.yaml").write_text(written)
    settings: object = load_settings("etc/m.yaml", environ={}, flags={}, profile={}).settings
    for name in path.split("."):
        settings = getattr(settings, name)
    assert settings == wanted
    assert load(flags={"bridge.sink": "sqlite:metrics.db"}).settings.bridge.sink == "sqlite:metrics.db"


def test_the_password_file_is_read(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file name is relative to the settings file; a file that every user can read gives a warning."""
    (here / "etc").mkdir()
    (here / "etc" / "pw").write_text("hunter2\r\nsecond\n")
    (here / "etc" / "pw").chmod(0o604)
    (here / "etc" / "m.yaml").write_text("mqtt: {broker: {password_file: pw}}")
    effective = load_settings("etc/m.yaml", environ={}, flags={}, profile={"mqtt.broker.password": "old"})
    assert effective.settings.mqtt.broker.password == "hunter2"
    assert effective.settings.mqtt.broker.password_file == "etc/pw"
    assert effective.origins["mqtt.broker.password"] == "etc/m.yaml:1 (file etc/pw)"
    assert "chmod 600 etc/pw" in caplog.text
    assert "hunter2" not in caplog.text + repr(effective)


def test_a_password_from_a_flag_beats_the_password_file() -> None:
    """The loader does not open the file of the weaker source."""
    effective = load("mqtt: {broker: {password_file: missing}}", {"MQTTKIT_PASSWORD": "p"})
    assert effective.settings.mqtt.broker.password == "p"
    assert effective.settings.mqtt.broker.password_file is None


@pytest.mark.parametrize("content", [None, b"\nsecond\n", b"\xff\xfe\n"])
def test_a_password_file_that_gives_none_is_refused(here: Path, content: bytes | None) -> None:
    """Missing, empty and undecodable files raise an error that names the file."""
    if content is not None:
        (here / "pw").write_bytes(content)
    message = refusal("mqtt: {broker: {password_file: pw}}")
    assert message.startswith("mqttkit.yaml:1: mqtt.broker.password_file: ")
    assert "pw" in message


def test_a_readable_file_with_a_password_is_warned_of(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only a password in plain text gives the warning, not a reference."""
    path = here / "m.yaml"
    path.write_text("mqtt: {broker: {password: '${PW}'}}")
    path.chmod(0o644)
    load_settings("m.yaml", environ={"PW": "x"}, flags={}, profile={})
    assert caplog.text == ""
    path.write_text("mqtt: {broker: {password: hunter2}}")
    load_settings("m.yaml", environ={}, flags={}, profile={})
    assert "m.yaml holds a password, and every user can read it" in caplog.text


PROFILE = {
    "mqtt.broker.host": "127.0.0.1",
    "mqtt.broker.port": 41883,
    "mqtt.broker.username": "edge",
    "mqtt.broker.password": "generated",
}


@pytest.mark.parametrize("flags", [
    {}, {"mqtt.broker.host": "localhost"}, {"mqtt.broker.port": "41883"}, {"mqtt.broker.username": "edge"},
])  # fmt: skip
def test_the_profile_serves_its_own_broker(flags: dict[str, object]) -> None:
    """`broker up`, then any command without flags."""
    broker = load(flags=flags, profile=PROFILE).settings.mqtt.broker
    assert (broker.port, broker.username, broker.password) == (41883, "edge", "generated")


@pytest.mark.parametrize("flags", [
    {"mqtt.broker.host": "other.example"}, {"mqtt.broker.port": 1884},
    {"mqtt.broker.hosts": ["127.0.0.1:41883", "b"]}, {"mqtt.broker.unix_socket": "/run/mosquitto.sock"},
])  # fmt: skip
def test_the_profile_password_goes_to_no_other_broker(flags: dict[str, object]) -> None:
    """A password belongs to one broker."""
    effective = load(flags=flags, profile=PROFILE)
    assert effective.settings.mqtt.broker.password is None
    assert "profile" not in effective.origins.values()


def test_another_user_of_the_profile_s_broker_gets_its_address_and_not_its_password() -> None:
    """`broker up`, then `pub -u bob`: the same broker, without the operator's password."""
    broker = load(flags={"mqtt.broker.username": "bob"}, profile=PROFILE).settings.mqtt.broker
    assert (broker.host, broker.port, broker.username, broker.password) == ("127.0.0.1", 41883, "bob", None)


def test_a_host_given_more_strongly_replaces_the_list_of_hosts() -> None:
    """`hosts` in the file does not hide -h."""
    broker = load("mqtt: {broker: {hosts: [a, b]}}", flags={"mqtt.broker.host": "c"}).settings.mqtt.broker
    assert broker.addresses() == (("c", 1883),)


def test_a_unix_socket_replaces_host_and_port() -> None:
    """A stronger host replaces it in turn."""
    text = "mqtt: {broker: {host: a, unix_socket: /run/m.sock}}"
    assert load(text).settings.mqtt.broker.addresses() == (("/run/m.sock", 0),)
    assert load(text, flags={"mqtt.broker.host": "c"}).settings.mqtt.broker.addresses() == (("c", 1883),)


@pytest.mark.parametrize(("text", "environ", "flags", "expected"), [
    ("mqtt: {broker: {tls: {}}}", {}, {}, TlsSettings()),
    ("mqtt: {broker: {tls: true}}", {}, {}, TlsSettings()),
    ("mqtt: {broker: {tls: null}}", {}, {}, None),
    (None, {"MQTTKIT_MQTT_BROKER_TLS_INSECURE": "yes"}, {}, TlsSettings(insecure=True)),
    (None, {"MQTTKIT_MQTT_BROKER_TLS": "true"}, {}, TlsSettings()),
    (None, {}, {"mqtt.broker.tls": True}, TlsSettings()),
    (None, {}, {"mqtt.broker.tls": TlsSettings(alpn=("mqtt",))}, TlsSettings(alpn=("mqtt",))),
    ("mqtt: {broker: {tls: {insecure: true}}}", {}, {"mqtt.broker.tls": False}, None),
    ("mqtt: {broker: {tls: {insecure: true}}}", {}, {"mqtt.broker.tls.alpn": ["x"]},
     TlsSettings(insecure=True, alpn=("x",))),
    ("mqtt: {broker: {tls: {ca_file: /ca.pem}}}", {"MQTTKIT_MQTT_BROKER_TLS": "no"}, {}, None),
])  # fmt: skip
def test_an_optional_section_is_on_where_anything_sets_it(
    text: str | None, environ: dict[str, str], flags: dict[str, object], expected: TlsSettings | None
) -> None:
    """A section or any setting in it switches TLS on; a stronger null or false switches it off."""
    assert load(text, environ, flags).settings.mqtt.broker.tls == expected


def test_the_file_is_found_here_then_in_the_users_directory(here: Path) -> None:
    """MQTTKIT_CONFIG, ./mqttkit.yaml, $XDG_CONFIG_HOME/mqttkit/mqttkit.yaml; no file is fine too."""
    environ = {"XDG_CONFIG_HOME": str(here / "xdg")}
    user = here / "xdg" / "mqttkit" / "mqttkit.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("scanner: {id: user}")
    assert load(environ=environ).settings.scanner.id == "user"
    assert load("scanner: {id: here}", environ).settings.scanner.id == "here"
    (here / "named.yaml").write_text("scanner: {id: named}")
    assert load(environ={**environ, "MQTTKIT_CONFIG": "named.yaml"}).settings.scanner.id == "named"


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.yaml", None,
     "missing.yaml: cannot read it: No such file or directory. Write one: mqttkit config init"),
    (".", None, "cannot read it: Is a directory"),
    ("latin1.yaml", b"a: 1\nb: \xe9\n", "latin1.yaml:2: not UTF-8"),
    ("large.yaml", b"#" * 1024 * 1024 + b"\n", "large.yaml: larger than 1048576 bytes"),
])  # fmt: skip
def test_a_named_file_that_cannot_be_read_is_an_error(
    here: Path, name: str, content: bytes | None, message: str
) -> None:
    """A missing file is an error if the user named it."""
    if content is not None:
        (here / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(name, environ={}, flags={}, profile={})
    assert message in str(caught.value)


def test_each_setting_has_its_own_variable() -> None:
    """No two dotted paths become one name."""
    leaves = [leaf.path for leaf in root().leaves()]
    optional = [section.path for section in root().sections() if section.optional]
    assert len(variables()) == len(leaves) + len(optional) + len(SHORT_FORMS)


keys = st.sampled_from([part for leaf in root().leaves() for part in leaf.path.split(".")] + ["x", "<<"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`,#? \n\t\\$0~\ud800\x00\x85"), max_size=60) | st.text())
def test_arbitrary_text_raises_nothing_but_config_error(text: str) -> None:
    """No text in a file causes a traceback."""
    try:
        parse(text, "f.yaml", {})
    except ConfigError as error:
        assert str(error).startswith("f.yaml")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([leaf.path for leaf in root().leaves()]), trees, max_size=6))
def test_arbitrary_values_raise_nothing_but_config_error(values: dict[str, object]) -> None:
    """This holds for values of any type."""
    values.pop("mqtt.broker.password_file", None)
    try:
        load_settings(None, environ={"XDG_CONFIG_HOME": "/nowhere"}, flags=values, profile={})
    except ConfigError as error:
        assert str(error).startswith("flag: ")


def test_nodes_say_what_they_are() -> None:
    """An error shows this after `got`."""
    shown = [str(node_of(value, "flag")) for value in ("a", 1, None, [1], {"a": 1})]
    assert shown == ["'a'", "1", "nothing", "a list", "a section"]


def uncommented(text: str) -> str:
    """Remove the # before each setting of a written file."""
    return re.sub(r"(?m)^( *)#(?=\w)", r"\1", text)


def test_the_written_file_is_true() -> None:
    """The written file changes nothing; without each # it has the defaults, with TLS on."""
    assert load(commented()).settings == Settings()
    effective = load(uncommented(commented()))
    assert effective.settings == Settings(mqtt=MqttSettings(broker=BrokerSettings(tls=TlsSettings())))
    assert all(origin.startswith("mqttkit.yaml:") for origin in effective.origins.values())


def test_each_setting_is_described() -> None:
    """The docstring under each field is the documentation in the file."""
    for section in root().sections():
        described = descriptions(section.cls)
        for child in section.children:
            assert isinstance(child, Section) or described.get(child.path.rpartition(".")[2]), child.path


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [
        "@",
        "...",
        "---",
        "<<",
        "=",
        "~",
        "null",
        "1e3",
        "a: b",
        "a #b",
        "${X}",
        "$",
        "- a",
        "\x85",
        "\u2028",
        "\ufeff",
        "😀",
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    username=texts,
    client_id=st.none() | texts.filter(lambda text: "\0" not in text),
    delay=st.floats(min_value=0.001, max_value=1e9),
    names=st.lists(texts, max_size=3),
    speed=st.none() | st.floats(min_value=0.1, max_value=100),
    tls=st.none() | st.builds(TlsSettings, insecure=st.booleans(), alpn=st.lists(texts, max_size=2).map(tuple)),
)
def test_what_is_shown_loads_back(
    tmp_path_factory: pytest.TempPathFactory,
    username: str,
    client_id: str | None,
    delay: float,
    names: list[str],
    speed: float | None,
    tls: TlsSettings | None,
) -> None:
    """`config show` is YAML that means the same settings."""
    wanted = Settings(
        mqtt=MqttSettings(
            broker=BrokerSettings(username=username, tls=tls),
            client=ClientSettings(client_id=client_id),
            reconnect=ReconnectSettings(initial_delay=delay),
        ),
        scanner=ScannerSettings(name=tuple(names), speed=speed),
    )
    shown = show(Effective(wanted, {leaf.path: "default" for leaf in root().leaves()}, None))
    path = tmp_path_factory.getbasetemp() / "shown.yaml"
    path.write_text(shown)
    assert load_settings(str(path), environ={}, flags={}, profile={}).settings == wanted


def test_show_masks_secrets_and_names_origins() -> None:
    """Passwords are masked."""
    effective = load("mqtt: {broker: {username: alice}}", {"MQTTKIT_PASSWORD": "hunter2"})
    text = show(effective)
    assert "hunter2" not in text + str(list(rows(effective)))
    assert re.search(r"(?m)^    username: alice +# mqttkit.yaml:1$", text)
    assert re.search(r'(?m)^    password: "\*{8}" +# environment variable MQTTKIT_PASSWORD$', text)
    found = {row["path"]: row for row in rows(effective)}
    assert found["mqtt.broker.password"]["value"] == "********"
    assert found["mqtt.broker.tls.ca_file"] == {
        "path": "mqtt.broker.tls.ca_file",
        "value": None,
        "origin": "default",
    }


LISTENERS = [
    {"mqtt.broker.port": 41885, "mqtt.client.version": "5"},
    {"mqtt.broker.port": 48883, "mqtt.broker.tls": TlsSettings(ca_file="/ca.pem")},
    {"mqtt.broker.port": 49001, "mqtt.broker.transport": "websockets"},
]
PLAIN = {**PROFILE, "mqtt.client.version": "311"}


@pytest.mark.parametrize(("flags", "port"), [
    ({}, 41883), ({"mqtt.client.version": "5"}, 41885), ({"mqtt.client.version": "auto"}, 41883),
    ({"mqtt.broker.tls.insecure": False}, 48883), ({"mqtt.broker.transport": "websockets"}, 49001),
    ({"mqtt.broker.port": 41885}, 41885), ({"mqtt.broker.host": "localhost", "mqtt.broker.port": 48883}, 48883),
    ({"mqtt.broker.tls": "off"}, 41883),
])  # fmt: skip
def test_the_profile_serves_each_of_its_listeners(flags: dict[str, object], port: int) -> None:
    """The loader picks the listener by port, or by transport, TLS and version."""
    mqtt = load_settings(
        None, environ={"XDG_CONFIG_HOME": "/nowhere"}, flags=flags, profile=PLAIN, listeners=LISTENERS
    ).settings.mqtt
    assert (mqtt.broker.port, mqtt.broker.password) == (port, "generated")
    assert (mqtt.broker.transport == "websockets") == (port == 49001)
    assert (mqtt.broker.tls.ca_file if mqtt.broker.tls else None) == ("/ca.pem" if port == 48883 else None)
    assert mqtt.client.version == flags.get("mqtt.client.version", "5" if port == 41885 else "311")


@pytest.mark.parametrize("flags", [
    {"mqtt.broker.port": 9001}, {"mqtt.broker.host": "other.example", "mqtt.broker.port": 48883},
    {"mqtt.broker.transport": "websockets", "mqtt.broker.tls.insecure": False},
])  # fmt: skip
def test_the_profile_password_goes_to_no_listener_that_is_not_its_own(flags: dict[str, object]) -> None:
    """This holds for another port, another host, or a transport that none of its listeners has."""
    broker = load_settings(
        None, environ={"XDG_CONFIG_HOME": "/nowhere"}, flags=flags, profile=PLAIN, listeners=LISTENERS
    ).settings.mqtt.broker
    assert (broker.password, broker.username) == (None, None)


@pytest.mark.parametrize(("flags", "port"), [
    ({}, 1883), ({"mqtt.broker.tls.ca_file": "ca.pem"}, 8883), ({"mqtt.broker.transport": "websockets"}, 80),
    ({"mqtt.broker.transport": "websockets", "mqtt.broker.tls.insecure": True}, 443),
    ({"mqtt.broker.transport": "websockets", "mqtt.broker.port": 1}, 1),
])  # fmt: skip
def test_the_port_that_nobody_names_is_the_usual_one(flags: dict[str, object], port: int) -> None:
    """The port is that of mqtt, mqtts, ws or wss."""
    assert load(flags=flags).settings.mqtt.broker.port == port


def test_an_optional_section_is_switched_by_a_switch_only() -> None:
    """Any other value is an error that names the variable."""
    with pytest.raises(
        ConfigError, match=r"MQTTKIT_MQTT_BROKER_TLS: mqtt\.broker\.tls: must be true or false, got 'maybe'"
    ):
        load(environ={"MQTTKIT_MQTT_BROKER_TLS": "maybe"})
