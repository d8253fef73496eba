"""Options for connecting to a broker, and for how much to log; most commands have them."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import click

from mqttkit.addresses import parse_address, parse_url
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.loading import config_option, load
from mqttkit.cli.options.numbers import LONG_SECONDS, PORT, QOS, Number
from mqttkit.cli.options.properties import property_option, will_properties, will_property_option
from mqttkit.cli.options.setting_option import Command, add_options, file_option, given_settings, setting_option
from mqttkit.cli.options.texts import Bytes, Text
from mqttkit.errors import UsageError
from mqttkit.messages import Will
from mqttkit.settings import Settings

VERSIONS = {
    "auto": "auto",
    **dict.fromkeys(("5", "mqttv5"), "5"),
    **dict.fromkeys(("311", "3.1.1", "mqttv311"), "311"),
}
"""What -V takes, mosquitto's spellings included."""


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What the connection options say."""

    settings: Settings
    will: Will | None = None
    url_topic: str | None = None
    """The path of -L, if it has one."""
    qos: int | None = None
    """The value of -q; None without it: `settings.mqtt.client.qos` then holds the file's."""
    retry: bool = True
    """False with --no-retry."""
    quiet: bool = False
    """True with --quiet."""


def connection_options(command: Command) -> Command:
    """Add the connection options; the command gets them as `connection: ConnectionOptions`."""
    return _with_connection(command, logging.INFO)


def terse_connection_options(command: Command) -> Command:
    """Add the connection options to a command that logs warnings and errors only."""
    return _with_connection(command, logging.WARNING)


def _with_connection(command: Command, level: int) -> Command:
    @functools.wraps(command)
    def wrapper(
        *arguments: Any,
        url: str | None,
        no_retry: bool,
        config: str | None,
        broker_name: str,
        quiet: bool,
        debug: bool,
        **given: Any,
    ) -> Any:
        set_up_logging(quiet=quiet, debug=debug, level=level)
        will = _will(**{name: given.pop(name) for name in _WILL_NAMES})
        broker = parse_url(url) if url is not None else None
        qos = given_settings().get("mqtt.client.qos")
        connection = ConnectionOptions(
            settings=load(config, url=broker, broker_name=broker_name),
            will=will,
            url_topic=broker.path or None if broker else None,
            qos=cast(int, qos.value) if qos else None,
            retry=not no_retry,
            quiet=quiet,
        )
        return command(*arguments, connection=connection, **given)

    return cast(Command, add_options(wrapper, _OPTIONS))


def _will(
    *,
    will_topic: str | None,
    will_payload: bytes | None,
    will_qos: int,
    will_retain: bool,
    will_delay: int,
    will_property: tuple[tuple[str, str], ...],
) -> Will | None:
    if will_topic is None:
        if will_payload is not None or will_qos or will_retain or will_delay or will_property:
            raise UsageError("--will-payload, --will-qos, --will-retain, --will-delay and -D will need --will-topic")
        return None
    from mqttkit.topics import check_topic_name

    properties = will_properties(will_property)
    return Will(check_topic_name(will_topic), will_payload or b"", will_qos, will_retain, will_delay, properties)


def _password(text: str) -> dict[str, object]:
    return {"mqtt.broker.password": _ask_password() if text == "-" else text}


def _ask_password() -> str:
    """Ask on the terminal, which may be another stream than stdin; raise UsageError if there is no terminal."""
    if not sys.stdin.isatty():
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError as error:
            raise UsageError(
                "-P - asks on the terminal, and there is none", hint="Use --password-file or MQTTKIT_PASSWORD"
            ) from error
    return str(click.prompt("Password", hide_input=True, err=True))


def _hosts(hosts: list[str]) -> dict[str, object]:
    """Return the settings of -h: `host`, or `host:port`, whose port overrides -p."""
    for text in hosts:
        if "://" in text:
            host = text.partition("://")[2].partition("/")[0].rpartition("@")[2] or "HOST"
            raise UsageError("-h takes a host, not a URL", hint=f"Give the host: -h {host}, or the URL with -L")
    if len(hosts) > 1:
        return {"mqtt.broker.hosts": hosts}
    try:
        (host, port), (_, other) = parse_address(hosts[0], 1), parse_address(hosts[0], 2)
    except ValueError as error:
        raise UsageError(f"-h: {error}") from error
    return {"mqtt.broker.host": host, **({"mqtt.broker.port": port} if port == other else {})}


def _version(text: str) -> dict[str, object]:
    return {"mqtt.client.version": VERSIONS[text]}


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    setting_option(
        "-h", "--host", "hosts", expand=_hosts, multiple=True, metavar="HOST",
        help="Broker's host; repeat it for fail-over.  [localhost]",
    ),
    setting_option("-p", "--port", path="mqtt.broker.port", type=PORT, help="Broker's port.  [1883; 8883 with TLS]"),
    setting_option(
        "--unix", path="mqtt.broker.unix_socket", metavar="SOCKET", type=click.Path(),
        help="Broker's Unix socket, instead of host and port.",
    ),
    setting_option("--proxy", path="mqtt.broker.proxy", metavar="URL", help="socks5h://user:password@host:port"),
    setting_option(
        "-A", "--bind", path="mqtt.broker.bind_address", metavar="ADDRESS",
        help="Address of this machine from which to connect.",
    ),
    click.option("-L", "--url", metavar="URL", help="mqtt(s)://user:password@host:port/topic, or ws(s)://…"),
    setting_option("-u", "--username", path="mqtt.broker.username", type=Text("NAME"), help="User name."),
    setting_option(
        "-P", "--password", expand=_password, type=Text("PASSWORD"),
        help="Password; - asks for it. Other users can read it in the process list.",
    ),
    file_option(
        "--password-file", path="mqtt.broker.password_file",
        help="Read the password from the first line of FILE.",
    ),
    setting_option("-i", "--id", path="mqtt.client.client_id", type=Text("ID"), help="Client identifier.  [random]"),
    setting_option(
        "-k", "--keepalive", path="mqtt.client.keep_alive", type=Number("SECONDS", low=0, high=65_535, whole=True),
        help="Keep alive.  [60]",
    ),
    setting_option("-q", "--qos", path="mqtt.client.qos", type=QOS, help="Quality of service: 0, 1 or 2.  [0]"),
    setting_option(
        "-V", "--version", expand=_version, type=click.Choice(list(VERSIONS)), metavar="VERSION",
        help="MQTT version: 5, 311 or auto.  [auto]",
    ),
    setting_option(
        "-c", "--disable-clean-session", expand=lambda _: {"mqtt.client.clean_session": False}, is_flag=True,
        help="Keep the session on the broker; needs -i.",
    ),
    setting_option(
        "-x", "--session-expiry", path="mqtt.client.session_expiry", type=LONG_SECONDS,
        help="How long the broker keeps the session after the connection ends (MQTT 5).  [0]",
    ),
    setting_option(
        "--receive-maximum", path="mqtt.client.receive_maximum", type=Number("N", low=1, high=65_535, whole=True),
        help="Unacknowledged messages the broker may send (MQTT 5).  [1000]",
    ),
    setting_option(
        "--max-packet-size", path="mqtt.limits.max_packet_size", type=Number("BYTES", low=1_024, whole=True),
        help="Largest packet accepted from the broker.  [67108864]",
    ),
    setting_option(
        "--tls", path="mqtt.broker.tls", is_flag=True, help="Use TLS; trust the system's authorities, or the profile's."
    ),
    file_option(
        "--cafile", path="mqtt.broker.tls.ca_file",
        help="PEM file of the authorities to trust; implies --tls.",
    ),
    file_option(
        "--cert", path="mqtt.broker.tls.cert_file",
        help="PEM file of the client's certificate; implies --tls.",
    ),
    file_option("--key", path="mqtt.broker.tls.key_file", help="PEM file of the client's private key."),
    setting_option(
        "--tls-alpn", path="mqtt.broker.tls.alpn", multiple=True, metavar="NAME",
        help="Application protocol to offer; can be repeated.",
    ),
    setting_option(
        "--insecure", path="mqtt.broker.tls.insecure", is_flag=True, help="Trust any certificate. Not for production."
    ),
    setting_option(
        "--psk", path="mqtt.broker.tls.psk", metavar="KEY",
        help="Pre-shared key in hexadecimal; other users can read it in the process list.",
    ),
    setting_option(
        "--psk-identity", path="mqtt.broker.tls.psk_identity", type=Text("NAME"), help="Name of the pre-shared key."
    ),
    setting_option(
        "--ws", expand=lambda _: {"mqtt.broker.transport": "websockets"}, is_flag=True,
        help="Use MQTT over WebSockets; port 80, or 443 with TLS.",
    ),
    click.option("--will-topic", type=Text("TOPIC"), help="Topic of the will."),
    click.option("--will-payload", type=Bytes("TEXT"), help="Payload of the will."),
    click.option("--will-qos", type=QOS, default=0, help="Quality of service of the will.  [0]"),
    click.option("--will-retain", is_flag=True, help="Retain the will."),
    click.option(
        "--will-delay", type=LONG_SECONDS, default=0, help="Delay before the broker publishes the will (MQTT 5).  [0]"
    ),
    will_property_option,
    property_option,
    click.option("--no-retry", is_flag=True, help="End with an exit code instead of connecting again."),
    config_option,
    click.option("--broker", "broker_name", default="default", metavar="NAME", help="Broker of `broker up --name`."),
    click.option("--quiet", is_flag=True, help="Print nothing on stderr except a final error."),
    click.option("-d", "--debug", is_flag=True, help="Log everything on stderr."),
)  # fmt: skip
_WILL_NAMES = ("will_topic", "will_payload", "will_qos", "will_retain", "will_delay", "will_property")
