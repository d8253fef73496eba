"""Options that several commands share: how to reach the broker, and how much to say."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from mqttkit.addresses import parse_address, parse_url
from mqttkit.cli.flags import given_flags
from mqttkit.errors import UsageError
from mqttkit.messages import Will
from mqttkit.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

VERSIONS = {
    "auto": "auto",
    **dict.fromkeys(("5", "mqttv5"), "5"),
    **dict.fromkeys(("311", "3.1.1", "mqttv311"), "311"),
}
"""What -V takes, mosquitto's spellings included."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What the connection options came down to."""

    settings: Settings
    will: Will | None = None
    url_topic: str | None = None
    """The path of -L, where it has one."""
    qos: int | None = None
    """What -q says; None where it was not given, and `settings.mqtt.client.qos` holds what the file says."""
    retry: bool = True
    """False with --no-retry."""


def connection_options(command: Command) -> Command:
    """Add the connection options; the command gets them as `connection: Connection`."""
    return _with_connection(command, logging.INFO)


def terse_connection_options(command: Command) -> Command:
    """Add the connection options to a command that says nothing on stderr while all is well."""
    return _with_connection(command, logging.WARNING)


def _with_connection(command: Command, level: int) -> Command:
    @functools.wraps(command)
    def wrapper(*args: Any, **given: Any) -> Any:
        taken = {name: given.pop(name) for name in _OPTION_NAMES}
        set_up_logging(quiet=taken.pop("quiet"), debug=taken.pop("debug"), level=level)
        return command(*args, connection=_connection(taken), **given)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return cast(Command, wrapper)


def set_up_logging(*, quiet: bool = False, debug: bool = False, level: int = logging.INFO) -> None:
    """Send log records to stderr: errors only with `quiet`, everything with `debug`."""
    root = logging.getLogger("mqttkit")
    root.setLevel(logging.DEBUG if debug else logging.CRITICAL if quiet else level)
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter())
    root.handlers[:] = [handler]


class _LogFormatter(logging.Formatter):
    """`2026-01-11T10:30:45.123Z INFO client: connected`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(short)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        import time

        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.short = record.name.removeprefix("mqttkit.")
        return super().format(record)


def _connection(taken: dict[str, Any]) -> Connection:
    url = _parse_url(taken.pop("url"))
    will = _will(taken)
    retry = not taken.pop("no_retry")
    config, broker_name = taken.pop("config"), taken.pop("broker_name")
    flags = {**url.flags, **{_FLAG_PATHS[name]: value for name, value in taken.items() if _given(value)}}
    _expand(flags)
    flags |= given_flags()
    return Connection(
        settings=load(config, flags, broker_name=broker_name),
        will=will,
        url_topic=url.topic,
        qos=flags.get("mqtt.client.qos"),
        retry=retry,
    )


def load(config: str | None, flags: Mapping[str, Any], *, broker_name: str = "default") -> Settings:
    """Load the settings, with the profile of a local broker as the loader lets it count."""
    from mqttkit.config import load_settings

    profile, *listeners = profile_values(broker_name)
    return load_settings(config, environ=os.environ, flags=flags, profile=profile, listeners=listeners).settings


def profile_values(broker_name: str = "default") -> list[dict[str, Any]]:
    """Return the settings that the broker's profile gives, by dotted path, then what differs at each further listener.

    Raise UsageError for an unknown name.
    """
    if broker_name == "default" and not os.path.lexists(default_profile()):
        return [{}]
    from mqttkit.broker.profile import broker_names, load_profile

    profile = load_profile(broker_name)
    if profile is None:
        if broker_name != "default":
            names = ", ".join(broker_names()) or "none"
            raise UsageError(f"no broker named {broker_name!r}", hint=f"Those that `broker up` has set up: {names}")
        return [{}]
    plain = {"mqtt.broker": profile.to_broker_settings(), "mqtt.client.version": profile.version}
    return [plain, *profile.further_listeners()]


def default_profile() -> Path:
    """Return where the default broker's profile would be, as `BrokerPaths` has it.

    Where there is none, a short command is spared the import of the broker package: a tenth of its time.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "mqttkit" / "brokers" / "default" / "profile.json"


@dataclass(frozen=True)
class _Url:
    flags: Mapping[str, Any]
    topic: str | None


def _parse_url(url: str | None) -> _Url:
    """Split mqtt(s)://user:password@host:port/topic, or ws(s)://… (as mosquitto_pub -L)."""
    if url is None:
        return _Url({}, None)
    from mqttkit.config import url_values

    parts = parse_url(url)
    return _Url(url_values(parts), parts.path or None)


def _will(taken: dict[str, Any]) -> Will | None:
    topic, payload = taken.pop("will_topic"), taken.pop("will_payload")
    qos, retain = taken.pop("will_qos"), taken.pop("will_retain")
    if topic is None:
        if payload is not None or qos or retain:
            raise UsageError("--will-payload, --will-qos and --will-retain need --will-topic")
        return None
    from mqttkit.topics import check_topic_name

    return Will(check_topic_name(topic), (payload or "").encode(), qos, retain)


def _given(value: Any) -> bool:
    return value is not None and value is not False and value != ()


def _expand(flags: dict[str, Any]) -> None:
    """Turn what fingers type into what the settings hold."""
    if flags.get("mqtt.broker.password") == "-":
        flags["mqtt.broker.password"] = _ask_password()
    if "mqtt.client.version" in flags:
        flags["mqtt.client.version"] = VERSIONS[flags["mqtt.client.version"]]
    if flags.pop("disable_clean_session", False):
        flags["mqtt.client.clean_session"] = False
    if flags.pop("tls", False):
        flags.setdefault("mqtt.broker.tls.insecure", False)
    if flags.pop("websockets", False):
        flags["mqtt.broker.transport"] = "websockets"
    hosts = flags.pop("hosts", ())
    if len(hosts) == 1:
        flags.update(_host_and_port(hosts[0]))
    elif hosts:
        flags["mqtt.broker.hosts"] = hosts


def _ask_password() -> str:
    """Ask on the terminal, which need not be stdin; raise UsageError where there is none."""
    if not sys.stdin.isatty():
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError as error:
            raise UsageError(
                "-P - asks on the terminal, and there is none", hint="Use --password-file or MQTTKIT_PASSWORD"
            ) from error
    return str(click.prompt("Password", hide_input=True, err=True))


def _host_and_port(text: str) -> dict[str, Any]:
    """Return the settings that one -h gives: `host`, or `host:port`, whose port counts more than -p."""
    try:
        (host, port), (_, other) = parse_address(text, 1), parse_address(text, 2)
    except ValueError:
        return {"mqtt.broker.hosts": (text,)}  # the settings' own check says what is wrong with it
    return {"mqtt.broker.host": host, **({"mqtt.broker.port": port} if port == other else {})}


_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("-h", "--host", "hosts", multiple=True, help="Broker's host; again for fail-over.  [localhost]"),
    click.option("-p", "--port", type=click.IntRange(1, 65_535), help="Broker's port.  [1883; 8883 with TLS]"),
    click.option("-L", "--url", help="mqtt(s)://user:password@host:port/topic, or ws(s)://…"),
    click.option("-u", "--username", help="User name."),
    click.option("-P", "--password", help="Password; - asks for it. Others can read it in the process list."),
    click.option("--password-file", type=click.Path(), help="File whose first line is the password."),
    click.option("-i", "--id", "client_id", help="Client identifier.  [made up]"),
    click.option("-k", "--keepalive", type=click.IntRange(0, 65_535), help="Keep alive, seconds.  [60]"),
    click.option("-q", "--qos", type=click.IntRange(0, 2), help="Quality of service.  [0]"),
    click.option("-V", "--version", "version", type=click.Choice(list(VERSIONS)), help="MQTT version.  [auto]"),
    click.option("-c", "--disable-clean-session", is_flag=True, help="Keep the session; needs -i."),
    click.option("-x", "--session-expiry", type=click.IntRange(0, 4_294_967_295), help="Seconds the session is kept."),
    click.option("--tls", is_flag=True, help="Use TLS, with the system's authorities or the profile's."),
    click.option("--cafile", type=click.Path(), help="PEM file of the authorities to trust; implies TLS."),
    click.option("--cert", type=click.Path(), help="PEM file of the client's certificate; implies TLS."),
    click.option("--key", type=click.Path(), help="PEM file of the client's private key."),
    click.option("--tls-alpn", multiple=True, help="Application protocol to offer; again for several."),
    click.option("--insecure", is_flag=True, help="Trust any certificate. Not for production."),
    click.option("--ws", "websockets", is_flag=True, help="MQTT over WebSockets; port 80, with TLS 443."),
    click.option("--will-topic", help="Topic of the will."),
    click.option("--will-payload", help="Payload of the will."),
    click.option("--will-qos", type=click.IntRange(0, 2), default=0, help="Quality of service of the will."),
    click.option("--will-retain", is_flag=True, help="Retain the will."),
    click.option("--no-retry", is_flag=True, help="End with an exit code instead of trying again."),
    click.option("--config", type=click.Path(), help="Settings file.  [mqttkit.yaml where there is one]"),
    click.option("--broker", "broker_name", default="default", help="Profile of `broker up --name`."),
    click.option("--quiet", is_flag=True, help="Say nothing on stderr but the error that ends the command."),
    click.option("-d", "--debug", is_flag=True, help="Say everything on stderr."),
]

_FLAG_PATHS = {
    "hosts": "hosts",
    "port": "mqtt.broker.port",
    "username": "mqtt.broker.username",
    "password": "mqtt.broker.password",
    "password_file": "mqtt.broker.password_file",
    "client_id": "mqtt.client.client_id",
    "keepalive": "mqtt.client.keep_alive",
    "qos": "mqtt.client.qos",
    "version": "mqtt.client.version",
    "disable_clean_session": "disable_clean_session",
    "session_expiry": "mqtt.client.session_expiry",
    "tls": "tls",
    "cafile": "mqtt.broker.tls.ca_file",
    "cert": "mqtt.broker.tls.cert_file",
    "key": "mqtt.broker.tls.key_file",
    "tls_alpn": "mqtt.broker.tls.alpn",
    "insecure": "mqtt.broker.tls.insecure",
    "websockets": "websockets",
}
"""Option to dotted path; a path without a dot is worked out in `_expand`."""

_OPTION_NAMES = (
    *_FLAG_PATHS,
    *("url", "will_topic", "will_payload", "will_qos", "will_retain"),
    *("no_retry", "config", "broker_name", "quiet", "debug"),
)
