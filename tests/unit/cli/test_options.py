"""Options before anything is connected: what they set, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mqttkit.cli import cli
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.mosquitto import MosquittoCommand, read_options, replace_properties
from mqttkit.cli.options.setting_option import given_settings
from mqttkit.cli.scan.source_options import source_options
from mqttkit.errors import UsageError
from mqttkit.messages import Properties, Will
from mqttkit.settings import PropertySettings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, without settings of the user."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def connection_of(*words: str) -> ConnectionOptions:
    """Return what the connection options make of the words; raise what they raise."""
    found: list[ConnectionOptions] = []

    @click.command(cls=MosquittoCommand)
    @connection_options
    def command(connection: ConnectionOptions) -> None:
        found.append(connection)

    command.main(list(words), standalone_mode=False)
    return found[0]


def run(*words: str) -> Result:
    """Run `mqttkit`."""
    return CliRunner().invoke(cli, words, prog_name="mqttkit")


@pytest.mark.parametrize("option", ["seed", "min-rssi", "interval", "rate", "devices"])
def test_the_value_0_counts_as_given(option: str) -> None:
    """0 is a value; only an option that is missing is not given."""
    found: dict[str, object] = {}

    @click.command()
    @source_options
    def command() -> None:
        found.update(given_settings())

    command.main([f"--{option}", "0"], standalone_mode=False)
    assert {path: given for path, given in found.items() if given[0] == 0} == {  # type: ignore[index]
        f"scanner.{option.replace('-', '_')}": (0, f"--{option}")
    }
    command.main([], standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("scan", "--rate", "0"), "--rate: scanner.rate: must be more than 0"),
        (
            ("scan", "--source", "simulatd"),
            "--source: scanner.source: must be auto, bleak, bluepy, simulated",
        ),
        (("bridge", "run", "--group", "a/b"), "--group: bridge.group: group 'a/b' has '/'"),
        (("bridge", "tenant", "list", "--topic", "x/{y}"), "--topic: bridge.topic: "),
        (("sub", "-L", "mqtt://host:0/t"), "port must be 1 to 65535"),
        (("sub", "-L", "mqtt://[::1/t"), "must be [address]"),
        (("sub", "-h", "[::1", "t"), "-h: must be [address]"),
        (("sub", "-h", "mqtt://host", "t"), "-h takes a host, not a URL. Give the host: -h host, or the URL with -L"),
        (("sub", "-W", "abc", "t"), "must be a number greater than 0, got 'abc'"),
        (("sub", "-W", "nan", "t"), "must be a number greater than 0, got 'nan'"),
        (("sub", "-p", "0", "t"), "must be a whole number from 1 to 65535, got '0'"),
        (("pub", "t", "hello"), "pub takes one topic, got t hello. Give the payload with -m: mqttkit pub -m 'hello' t"),
        (("pub", "t"), "nothing to publish: give -m, -f, -s, -l, -n or --json. Example: mqttkit pub -m hello t"),
        (("pub", "-m", "x", "--content-type", "\udcff", "t"), "'--content-type': must be valid UTF-8"),
        (("pub", "-m", "x", "--content-type", "x" * 70_000, "t"), "has 70000 bytes; MQTT allows 65535"),
        (("pub", "-m", "x", "--user-property", "\udcff", "v", "t"), "must be valid UTF-8"),
        (("pub", "-m", "x", "--user-property", "n", "v" * 70_000, "t"), "has 70000 bytes; MQTT allows 65535"),
        (("pub", "-m", "x", "--correlation-data", "v" * 70_000, "t"), "has 70000 bytes; MQTT allows 65535"),
        (("pub", "-m", "x", "--response-topic", "a/#", "t"), "wildcard"),
        (("pub", "-m", "x", "--will-topic", "w", "--will-payload", "v" * 70_000, "t"), "has 70000 bytes"),
        (("pub", "-m", "x", "-u", "v" * 70_000, "t"), "has 70000 bytes"),
        (("pub", "-m", "x", "-i", "\udcff", "t"), "must be valid UTF-8"),
        (("publish-scan", "-c", "--source", "simulated"), "fixed client identifier"),
        (("doctor", "--topic", "a/#"), "wildcard"),
        (("broker", "start"), "no command 'start'. Did you mean: mqttkit broker up"),
        (("publish",), "no command 'publish'. Did you mean: mqttkit pub"),
        (("xyzzy",), "no command 'xyzzy'. See: mqttkit --help"),
    ],
)
def test_each_error_names_the_mistake_and_the_way_out(words: tuple[str, ...], message: str) -> None:
    """Exit code 2 before anything is connected, and no traceback."""
    refused = run(*words)
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    assert isinstance(refused.exception, SystemExit)


@pytest.mark.parametrize(
    "url", ["user:secret@host/t", "mqtt:/user:secret@host", "http://user:secret@host", "mqtt://user:secret@"]
)
def test_an_error_about_a_url_hides_the_password(url: str) -> None:
    """Whatever else is wrong with the URL."""
    refused = run("sub", "-L", url)
    assert refused.exit_code == 2
    assert "secret" not in refused.output + refused.stderr


@pytest.mark.parametrize("topic", ["sensors/#", "a?b", "+/x#y"])
def test_the_topic_of_a_url_is_everything_after_the_host(topic: str) -> None:
    """`#` and `?` belong to the topic filter."""
    connection = connection_of("-L", f"mqtt://user:pw@host/{topic}")
    broker = connection.settings.mqtt.broker
    assert (connection.url_topic, broker.host, broker.username, broker.password) == (topic, "host", "user", "pw")


def test_options_override_the_url() -> None:
    """In any order."""
    for words in (("-L", "mqtts://host:1/t", "-p", "2"), ("-p", "2", "-L", "mqtts://host:1/t")):
        broker = connection_of(*words).settings.mqtt.broker
        assert (broker.host, broker.port, broker.tls is not None) == ("host", 2, True)


def test_doctor_ends_with_3_if_it_cannot_reach_the_broker() -> None:
    """A host may stand alone, without -h; the failed step is named."""
    examined = run("doctor", "127.0.0.1:1")
    assert (examined.exit_code, "fail        tcp" in examined.stdout) == (3, True), examined.output


def test_help_is_a_command_too() -> None:
    """`mqttkit help`, `mqttkit help sub` and `mqttkit help broker up` show what --help shows."""
    assert run("help").stdout == run("--help").stdout
    assert run("help", "sub").stdout == run("sub", "--help").stdout
    assert run("help", "broker", "up").stdout == run("broker", "up", "--help").stdout
    assert run("help", "xyzzy").exit_code == 2


def test_no_help_shows_a_range_or_a_type() -> None:
    """A metavar says what the value is, such as PORT or SECONDS."""
    for words in ("sub", "pub", "broker up", "bench pub", "bridge run", "node sensor", "scan"):
        shown = run(*words.split(), "--help").stdout
        for name in ("--message", "-data", "-payload"):
            shown = shown.replace(f"{name} TEXT", "")
        for bad in ("INTEGER", "FLOAT", "x>=", "<=x", " TEXT ", " PATH "):
            assert bad not in shown.replace("--message TEXT", "").replace("-data TEXT", "").replace(
                "-payload TEXT", ""
            ), words


def test_mosquittos_properties_are_options() -> None:
    """-D publish, connect and will; what stands behind -- is not touched."""
    words = ["-D", "publish", "user-property", "n", "v", "-D", "PUBLISH", "content-type", "text/plain", "--", "-D"]
    known = ("--user-property", "--content-type", "--utf8")
    assert replace_properties(words, known) == ["--user-property", "n", "v", "--content-type", "text/plain", "--", "-D"]
    assert replace_properties(["--property", "publish", "payload-format-indicator", "1"], known) == ["--utf8"]
    assert replace_properties(["-D", "publish", "payload-format-indicator", "0"], known) == []
    connection = connection_of(
        *("-D", "connect", "session-expiry-interval", "60", "-D", "connect", "receive-maximum", "7"),
        *("--will-topic", "w", "-D", "will", "will-delay-interval", "5"),
    )
    client = connection.settings.mqtt.client
    assert connection.will is not None
    assert (client.session_expiry, client.receive_maximum, connection.will.delay_interval) == (60, 7, 5)


def test_each_of_mosquittos_properties_becomes_a_setting() -> None:
    """What no option sets goes into mqtt.properties, and into the will."""
    given = """
        connect user-property a b=c; connect user-property d e; connect authentication-method M
        connect authentication-data D; connect request-problem-information 0; connect request-response-information 1
        connect maximum-packet-size 2000; connect topic-alias-maximum 0; subscribe subscription-identifier 7
        subscribe user-property f g; unsubscribe user-property h i; disconnect user-property j k
        disconnect session-expiry-interval 9; will content-type T; will response-topic r; will correlation-data c
        will message-expiry-interval 5; will payload-format-indicator 1; will user-property l m=n
    """
    each = [words.split() for words in given.replace(";", "\n").strip().splitlines()]
    connection = connection_of("--will-topic", "w", *[word for words in each for word in ("-D", *words)])
    assert connection.settings.mqtt.properties == PropertySettings(
        connect=("a=b=c", "d=e"),
        subscribe=("f=g",),
        unsubscribe=("h=i",),
        disconnect=("j=k",),
        subscription_identifier=7,
        disconnect_expiry=9,
        request_problem_information=False,
        request_response_information=True,
        authentication_method="M",
        authentication_data="D",
    )
    assert connection.settings.mqtt.limits.max_packet_size == 2000
    assert connection.will == Will("w", properties=Properties(1, 5, "T", "r", b"c", (("l", "m=n"),)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-D connect will-delay-interval 1", "does not send this property. It sends: publish content-type, "),
        ("-D x y 1", "-D x y: mqttkit does not send this property"),
        ("-D", "mqttkit does not send this property"),
        ("-D publish content-type x", "-D publish content-type: this command does not take it"),
        ("-D connect user-property a", "-D connect user-property needs a name and a value"),
        ("-D connect user-property a=b c", "must not contain '=' here, got 'a=b'"),
        ("-D connect receive-maximum", "-D connect receive-maximum needs a value"),
        ("-D connect topic-alias-maximum 5", "mqttkit reads no topic aliases, so it allows 0 only"),
        ("-D subscribe subscription-identifier 0", "mqtt.properties.subscription_identifier: must be 1 to 268435455"),
        ("-D connect request-problem-information 7", "mqtt.properties.request_problem_information: must be true or"),
        ("--will-topic w -D will payload-format-indicator 2", "-D will payload-format-indicator must be 0 or 1"),
        ("--will-topic w -D will message-expiry-interval x", "-D will message-expiry-interval: must be a whole number"),
        ("-D will content-type x", "-D will need --will-topic"),
    ],
)
def test_a_property_that_cannot_be_sent_is_an_error(words: str, message: str) -> None:
    """The error names type and property, and what would be right."""
    with pytest.raises(UsageError, match=re.escape(message)):
        connection_of(*words.split())


def test_a_file_of_options_is_overridden_by_the_command_line(here: Path) -> None:
    """One option a line, as mosquitto's clients read them; comments and blank lines count for nothing."""
    (here / "options").write_text(
        "# mine\n\n-h filehost\n--port 1234\n-u  file user\n--tls\n-D connect receive-maximum 9\n"
    )
    broker = connection_of("-o", "options").settings.mqtt.broker
    assert (broker.host, broker.port, broker.username, broker.tls is not None) == ("filehost", 1234, "file user", True)
    for words in (("--host", "other"), ("-hother",), ("--host=other",)):
        broker = connection_of(*words, "-o", "options").settings.mqtt.broker
        assert (broker.host, broker.hosts, broker.port) == ("other", (), 1234)


def test_a_file_of_options_that_cannot_be_read_is_named(here: Path) -> None:
    """Missing, not text, or a line that is no option."""
    with pytest.raises(UsageError, match="-o: cannot read missing: "):
        read_options("missing")
    (here / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="-o: cannot read binary: "):
        read_options("binary")
    (here / "wrong").write_text("-h x\nhost y\n")
    with pytest.raises(UsageError, match="wrong:2: a line is an option and its value, got 'host'"):
        read_options("wrong")
